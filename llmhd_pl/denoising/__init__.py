"""The method in plain torch (docs/paper.md); it knows nothing of Lightning or of language models."""
