"use strict";
(() => {
  const root = document.documentElement;

  document.getElementById("theme").onclick = () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };

  for (const sound of document.querySelectorAll(".sound")) new Sound(sound);

  const players = [...document.querySelectorAll(".replay")].map((panel) => {
    const data = JSON.parse(panel.querySelector("script").textContent);
    const replay = new Replay(panel, data.measure);
    replay.lay(data.cells, data.steps);
    for (const shot of data.shots) replay.addShot(shot.step, shot.src);
    return replay;
  });

  // The replay that the keys move: the one in use, else the one nearest to the middle of the window.
  function current() {
    const used = document.activeElement.closest(".card");
    const inside = used && players.find((player) => used.contains(player.home));
    if (inside) return inside;
    const off = (player) => {
      const box = player.home.getBoundingClientRect();
      return Math.abs((box.top + box.bottom - innerHeight) / 2);
    };
    return players.reduce((a, b) => (off(b) < off(a) ? b : a), players[0]);
  }

  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !players.length) return;
    if (event.target.closest("button, a") && event.key === " ") return;
    const replay = current();
    const keys = {
      ArrowLeft: () => replay.move(replay.at - 1),
      ArrowRight: () => replay.move(replay.at + 1),
      Home: () => replay.move(0),
      End: () => replay.move(replay.last),
      " ": () => (replay.timer ? replay.pause() : replay.play()),
    };
    const typed = event.target.closest("input") || !["Home", "End"].includes(event.key);
    if (!keys[event.key] || !typed) return;
    event.preventDefault();
    keys[event.key]();
  });

  // Each card plays once when it first comes into view.
  if (!Replay.calm && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          seen.unobserve(entry.target);
          players.find((player) => player.home === entry.target).play();
        }
      },
      { threshold: 0.9 },
    );
    for (const player of players) seen.observe(player.home);
  }
})();
