"""Denoising for implicit-feedback recommenders with a language model (LLMHD), as PyTorch Lightning parts."""
