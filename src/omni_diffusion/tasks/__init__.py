"""Where meaning meets canvas: a conversation becomes a canvas and back."""
