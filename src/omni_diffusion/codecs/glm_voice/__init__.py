"""The GLM-4-Voice speech codec: tokenizer, flow decoder and vocoder."""
