"""Parameters of the paper's models and adapters by closed formulas (protocol section 8)."""

SIZES = {  # hidden, intermediate, key-value width, layers, vocabulary
    "llama-7b": (4096, 11008, 4096, 32, 32000),
    "llama-13b": (5120, 13824, 5120, 40, 32000),
    "llama3-8b": (4096, 14336, 1024, 32, 128256),
}


def trained_parameters(table: str, model: str, method: str, rank: int) -> int:
    """Rank x sum of the widths of the adapted layers; DoRA's magnitudes too."""
    h, i, kv, layers, _ = SIZES[model]
    outputs, inputs = (3 * h + 2 * kv + 2 * i, 6 * h + i) if table == "qsbora_mmlu" else (2 * h + 2 * kv + i, 4 * h + i)
    fa, fb = rank * outputs * layers, rank * inputs * layers
    trained = {"sbora-fa": fa, "sbora-fb": fb, "lora": fa + fb, "dora": fa + fb + outputs * layers}
    return trained[method.removeprefix("q")]


def base_parameters(table: str, model: str) -> int:
    """Embeddings and head, norms, and the layers' own; the 4-bit table's models have one token more, [PAD]."""
    h, i, kv, layers, words = SIZES[model]
    words += table == "qsbora_mmlu"
    return 2 * words * h + h + layers * (2 * h * h + 2 * h * kv + 3 * h * i + 2 * h)
