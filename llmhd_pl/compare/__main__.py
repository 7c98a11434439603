"""``python -m llmhd_pl.compare``, the same as ``llmhd compare``."""

from llmhd_pl.compare import main

if __name__ == "__main__":
    main()
