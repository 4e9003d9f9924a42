"""Our rows in PEFT's test matrices: both variants of SBoRA wherever PEFT lists its own methods.

Ranks are bounded by PEFT's toy layers (lin0 is 10 -> 20, lin1 20 -> 2, conv1d 5 -> 1): FA needs r <= inputs, FB
r <= outputs. FA on lin1 takes half of the hidden units, for two of them can both be dead behind the ReLU.
"""

from sbora import SboraConfig

LIN1_RANK = {"fa": 10, "fb": 2}
CONV1D_RANK = {"fa": 5, "fb": 1}


def _custom(variant: str) -> list[tuple]:
    """(name, model, config class, config) of PEFT's toy models."""
    lin1 = LIN1_RANK[variant]
    patterns = {"rank_pattern": {"lin1": lin1}, "alpha_pattern": {"lin1": 4}}
    rows = [
        ("MLP", {"target_modules": "lin0"}),
        ("MLP", {"target_modules": ["lin1"], "r": lin1}),
        ("MLP", {"target_modules": ["lin0", "lin1"], **patterns}),
        ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
        ("MLP", {"target_modules": ["lin0"], "sbora_alpha": 4, "sbora_dropout": 0.1}),
        ("MLP", {"target_modules": ["lin0", "lin1"], "exclude_modules": ["lin1"], "random_seed": 7}),
        ("MLP", {"target_modules": ["lin0"], "r": 4, "region": (1, 2)}),
        ("EmbConv1D", {"target_modules": ["conv1d"], "r": CONV1D_RANK[variant]}),
        ("MLP", {"target_modules": ["lin0"], "use_rslora": True}),
        ("MLP", {"target_modules": ["lin0"], "index_init": "weight"}),
        ("MLP", {"target_modules": None, "target_parameters": ["lin0.weight"]}),
        (
            "EmbConv1D",
            {"target_modules": ["conv1d"], "r": CONV1D_RANK[variant], "trainable_token_indices": {"emb": [0, 10]}},
        ),
    ]
    return [
        (f"{model} {i} SBoRA-{variant.upper()}", model, SboraConfig, {"variant": variant, **config})
        for i, (model, config) in enumerate(rows, 1)
    ]


def _pairs(variant: str) -> list[tuple]:
    """(name, method, config class, config, config) of two adapters on one MLP, active together."""
    lin0 = {"variant": variant, "target_modules": ["lin0"], "init_weights": False}
    # scaled by 1: PEFT compares to 1e-4 what fp32 rounds by more once lin1's outputs are in the thousands
    lin1 = {**lin0, "target_modules": ["lin1"], "r": LIN1_RANK[variant], "sbora_alpha": LIN1_RANK[variant]}
    left, right = ({**lin0, "r": 4, "region": (k, 2)} for k in (0, 1))
    rows = [
        ("Same", lin0, lin0),
        ("Same, other rank and seed", lin0, {**lin0, "r": 4, "random_seed": 1}),
        ("Different", lin0, lin1),
        ("Disjoint regions", left, right),
    ]
    return [(f"SBoRA-{variant.upper()} {name}", "sbora", SboraConfig, *pair) for name, *pair in rows]


def _mixed(variant: str) -> tuple:
    """(name, config, config) of two adapters that share a batch."""
    config = {"variant": variant, "target_modules": ["lin0"], "init_weights": False}
    return f"SBoRA-{variant.upper()}", SboraConfig(**config), SboraConfig(**config, r=4, random_seed=1)


def _models(task_type: str) -> list[tuple]:
    """(config class, config) for transformers' models: PEFT's default targets at r = 8."""
    config = {"task_type": task_type, "target_modules": None, "r": 8}
    return [(SboraConfig, {**config, "variant": variant}) for variant in ("fa", "fb")]


def _experts(variant: str) -> list[tuple]:
    """(model, config class, config) of mixtures of experts, both layouts of their parameters."""
    rows = []
    for model, module in (("tiny-Llama4ForCausalLM", "feed_forward"), ("tiny-GptOssForCausalLM", "mlp")):
        up, down = f"{module}.experts.gate_up_proj", f"{module}.experts.down_proj"
        for targets in (
            {"target_modules": [], "target_parameters": [down]},
            {"target_modules": [], "target_parameters": [f"0.{up}", f"1.{down}"]},
            {"target_modules": None, "target_parameters": [down, up]},
            {"target_modules": ["q_proj", "v_proj"], "target_parameters": [down]},
        ):
            config = {"task_type": "CAUSAL_LM", "variant": variant, "r": 8, "sbora_alpha": 32, **targets}
            rows.append((f"trl-internal-testing/{model}", SboraConfig, config))
    return rows


MIXED = [_mixed("fa"), _mixed("fb")]

# PEFT's test module: the name of its list of methods: what takes the list's place.
ROWS = {
    "test_custom_models": {
        "TEST_CASES": _custom("fa") + _custom("fb"),
        "ALL_PEFT_CONFIG_CLASSES": [SboraConfig],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": _pairs("fa") + _pairs("fb"),
        "MIXED_ADAPTER_TEST_CASES": MIXED,
    },
    "test_config": {
        "ALL_CONFIG_CLASSES": [(SboraConfig, {})],
        "LAYER_INDEXING_CONFIG_CLASSES": [(SboraConfig, {})],
    },
    "test_decoder_models": {"ALL_CONFIGS": _models("CAUSAL_LM")},
    "test_target_parameters": {"ALL_CONFIGS": _experts("fa") + _experts("fb")},
    "test_encoder_decoder_models": {"ALL_CONFIGS": _models("SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": _models("FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": _models("SEQ_CLS")},
    "test_quantization": {"TEST_CASES": [(SboraConfig, {"variant": v, "r": 8}) for v in ("fa", "fb")]},
}

# Tests whose list of methods has no name: (the parameter, what takes the list's place).
INLINE = {
    "test_multiple_adapters_mixed_modules_to_save": ("config_cls", [SboraConfig]),
    "test_multiple_adapters_mixed_modules_to_save_order_switched": ("config_cls", [SboraConfig]),
    "test_adapter_name_makes_no_difference": ("config0", [config for _, config, _ in MIXED]),
    "test_default_target_modules_not_set_raises": ("config_cls", [SboraConfig]),
    "test_default_target_modules_not_set_model_type_set_raises": ("config_cls", [SboraConfig]),
}

# Tests that expect words of LoRA's own: (module, test): where ours are tested.
OTHER_WORDS = {
    ("test_target_parameters", "test_mixed_adapter_batches"): "tests/unit/sbora/test_experts.py",
    ("test_target_parameters", "test_generate_with_mixed_adapter_batches"): "tests/unit/sbora/test_experts.py",
}

# Skips that PEFT writes for lists of method names although SBoRA does what the test asks: (module, function).
# `check_beft_config` is meant for BEFT alone, but asks a class for isinstance and so skips every method.
LIFTED_SKIPS = [
    ("testing_common", "_skip_if_conv1d_not_supported"),
    ("test_decoder_models", "check_beft_config"),
]

# How the reasons of the remaining skips begin: whom they concern. Any other skip fails.
ALLOWED_SKIPS = {
    "This test does not apply to <class": "prompt tuning alone",
    "This test is only for prompt learning methods": "prompt learning alone",
    "Skip tests that are not prompt learning": "prompt learning alone",
    "Test not applicable for <class": "prompt learning alone, or LoRA and IA3 alone (weighted adapters)",
    "Testing bias warnings only for LoraConfig": "every method: PEFT's condition is always true",
    "Multiple active adapters with modules_to_save": "every method's rows with modules_to_save",
    "Merging with target_parameters is not supported": "rows with target_parameters; test_experts.py merges them",
    "Skipping FSDP + target_paramters": "every method's rows with target_parameters",
    "Bnb 4 bit quant with CPU": "every method on a CPU",
}
