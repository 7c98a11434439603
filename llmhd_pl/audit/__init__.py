"""How noisy is my data? ``llmhd audit --data AtomicFiles --data.data_dir data/my-shop --scorer LexicalScorer``."""
