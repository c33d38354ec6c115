"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  document.getElementById("theme").onclick = () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };

  // ---- sound: a click on the waveform seeks, the heard part is coloured
  for (const sound of document.querySelectorAll(".sound")) {
    const audio = sound.querySelector("audio");
    const drawing = sound.querySelector("svg");
    const heard = sound.querySelector("clipPath rect");
    const show = () => heard.setAttribute("width", audio.currentTime / audio.duration || 0);
    const follow = () => {
      show();
      if (!audio.paused) requestAnimationFrame(follow);
    };
    audio.onplay = () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      follow();
    };
    audio.onseeked = audio.onended = show;
    drawing.onclick = (event) => {
      const box = drawing.getBoundingClientRect();
      if (!audio.duration) return;
      audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
      audio.play();
    };
  }

  // ---- denoising
  function build(card) {
    const data = JSON.parse(card.querySelector("script[type='application/json']").textContent);
    const panel = card.querySelector(".replay");
    const [button, slider] = [panel.querySelector("button"), panel.querySelector("input")];
    const [output, canvas] = [panel.querySelector("output"), panel.querySelector("canvas")];
    const cells = lay(panel.querySelector(".cells"), data);
    const wanted = data.cells.filter((c) => c.step !== 0).length;
    const shots = data.shots.map((shot) => Object.assign(new Image(), { src: shot.src }));
    let at = data.steps;
    let timer = 0;

    function show(step) {
      at = Math.max(0, Math.min(data.steps, step));
      let filled = 0;
      data.cells.forEach((cell, i) => {
        const state = cell.step === 0 ? "given" : cell.step === null || cell.step > at ? "blank"
          : cell.step === at ? "now" : "done";
        filled += state === "now" || state === "done";
        cells[i].className = cells[i].dataset.base + " " + state;
      });
      slider.value = at;
      tip.hidden = true;
      output.textContent = `step ${at} of ${data.steps} · ${filled} of ${wanted} filled`;
      if (canvas) draw();
    }

    // The next stored picture, with the cells that are still blank at this step cut out.
    function draw() {
      const next = data.shots.findIndex((shot) => shot.step >= at);
      const image = shots[next < 0 ? shots.length - 1 : next];
      if (!image.complete) return void (image.onload = draw);
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const brush = canvas.getContext("2d");
      brush.drawImage(image, 0, 0);
      const side = canvas.width / data.columns;
      data.cells.filter((c) => c.kind === "image").forEach((cell, i) => {
        if (cell.step !== null && cell.step <= at) return;
        brush.clearRect((i % data.columns) * side, Math.floor(i / data.columns) * side, side, side);
      });
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      button.textContent = "▶";
    }

    function play() {
      if (timer) return stop();
      if (at >= data.steps) show(0);
      button.textContent = "❚❚";
      timer = setInterval(() => {
        show(at + 1);
        if (at >= data.steps) stop();
      }, Math.max(60, Math.min(350, 5000 / data.steps)));
    }

    const move = (step) => (stop(), show(step));
    slider.max = data.steps;
    slider.oninput = () => move(Number(slider.value));
    button.onclick = play;
    panel.onpointerover = panel.onpointerdown = (event) => tell(event, data, cells);
    panel.onpointerleave = () => (tip.hidden = true);
    show(at);
    return { card, move, play, at: () => at, last: data.steps };
  }

  function lay(home, data) {
    let grid = null;
    return data.cells.map((cell) => {
      const made = document.createElement("span");
      const word = cell.kind === "text" || cell.kind === "special";
      made.dataset.base = `cell ${cell.kind}${word ? " word" : ""}`;
      if (word) made.textContent = cell.token;
      if (cell.kind !== "image") grid = null;
      else if (!grid) {
        grid = home.appendChild(document.createElement("div"));
        grid.className = "grid";
        grid.style.gridTemplateColumns = `repeat(${data.columns}, 1fr)`;
      }
      if (cell.sure !== null) made.style.setProperty("--sure", cell.sure);
      return (grid || home).appendChild(made);
    });
  }

  function tell(event, data, cells) {
    const i = cells.indexOf(event.target.closest(".cell"));
    tip.hidden = i < 0;
    if (i < 0) return;
    const cell = data.cells[i];
    const hidden = event.target.classList.contains("blank");
    tip.textContent = hidden ? `place ${i}: still blank` : `place ${i}: ${cell.token}\n` +
      (cell.step === 0 ? "given beforehand"
        : `step ${cell.step}, confidence ${cell.confidence.toFixed(3)} (${data.measure})`);
    const box = event.target.getBoundingClientRect();
    tip.style.left = Math.min(box.left, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = (box.top > 70 ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + "px";
  }

  const players = [...document.querySelectorAll(".card:has(.replay)")].map(build);

  // The card that the keys move: the one in use, else the one nearest to the middle of the window.
  function current() {
    const inside = players.find((p) => p.card.contains(document.activeElement));
    if (inside) return inside;
    const off = (p) => {
      const box = p.card.querySelector(".replay").getBoundingClientRect();
      return Math.abs((box.top + box.bottom - innerHeight) / 2);
    };
    return players.reduce((a, b) => (off(b) < off(a) ? b : a), players[0]);
  }

  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !players.length) return;
    if (event.target.closest("audio, button") && event.key === " ") return;
    if (event.target.closest("audio")) return;
    const player = current();
    const keys = {
      ArrowLeft: () => player.move(player.at() - 1),
      ArrowRight: () => player.move(player.at() + 1),
      Home: () => player.move(0),
      End: () => player.move(player.last),
      " ": player.play,
    };
    const typed = event.target.closest("input") || !["Home", "End"].includes(event.key);
    if (!keys[event.key] || !typed) return;
    event.preventDefault();
    keys[event.key]();
  });

  // Each card plays once when it first comes into view.
  if (!calm && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        players.find((p) => p.card.contains(entry.target)).play();
      }
    }, { threshold: 0.9 });
    for (const p of players) seen.observe(p.card.querySelector(".replay"));
  }
})();
