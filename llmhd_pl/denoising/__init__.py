"""The method of LLMHD in plain torch (PAPER.md, sections 1 to 4); ``callbacks/`` connects it to Lightning."""
