"""Which key a person meant who wrote one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

SYNONYMS = {  # by the key as it is written here: names that other libraries and people use
    "optimizer.learning_rate": "learning_rate learningrate lr eta step_size base_lr initial_lr alpha",
    "optimizer.weight_decay": "weight_decay wd l2 decay",
    "optimizer.momentum": "momentum mu",
    "optimizer.nesterov": "nesterov",
    "optimizer.beta1": "beta1 beta_1 b1",
    "optimizer.beta2": "beta2 beta_2 b2",
    "optimizer.epsilon": "eps",
    "optimizer": "optim opt solver",
    "clipping@optimizer.clipping": "clipping clip grad_clip gradient_clipping clip_norm max_grad_norm",
    "learning_rate_schedule@optimizer.learning_rate_schedule": "lr_schedule lr_scheduler scheduler "
    "learning_rate_schedule",
    "batching.size": "batch batch_size batchsize bs minibatch minibatch_size mini_batch_size",
    "architecture.hidden": "hidden hidden_size hidden_sizes hidden_layers hidden_units hidden_dim hidden_dims "
    "hidden_layer_sizes layer_sizes layers sizes units neurons",
    "architecture.depth": "depth n_layers num_layers nlayers n_hidden num_hidden",
    "architecture.width": "width n_units num_units",
    "architecture.outputs": "outputs n_outputs n_classes num_classes",
    "architecture": "model network net arch",
    "activation": "activations activation_function activation_fn act nonlinearity",
    "activation@output": "output_activation final_activation",
    "epochs": "epoch n_epochs num_epochs nepochs max_epochs",
    "steps": "step n_steps num_steps max_steps iterations iters n_iter max_iter updates",
    "cost": "loss loss_function loss_fn criterion objective",
    "data": "dataset datasets data_set",
    "init": "initializer initialiser initialization initialisation weight_init kernel_initializer",
    "seed": "random_state random_seed rng manual_seed seeds",
    "replicates": "n_replicates n_seeds num_seeds repeats repetitions replicas n_runs ensemble",
    "dtype": "precision data_type float_type",
    "data.test_fraction": "test_size test_split train_size train_fraction",
    "data.validation_fraction": "validation_fraction validation_split validation_size val_split val_fraction val_size",
    "early_stopping.patience": "patience",
    "early_stopping.min_delta": "min_delta tolerance tol",
    "data.subset": "subset train_examples n_train n_samples",
    "data.standardise": "standardize standardise normalize normalise scale",
    "data.source.path": "path file filename csv csv_path data_path",
    "data.source.target": "target target_column label labels",
    "data.source.folder": "folder data_dir data_folder root",
    "probes": "metrics",
    "+probe@probes.NAME": "probe",
    "tracking.uri": "uri tracking_uri store database",
    "tracking.experiment": "experiment_name",
}
MEANT = {name: key for key, names in SYNONYMS.items() for name in names.split()}
NEEDED = {  # keys that only some options have
    "architecture.hidden": "architecture=mlp",
    "architecture.depth": "architecture=deep",
    "architecture.width": "architecture=deep",
    "optimizer.momentum": "optimizer=momentum",
    "optimizer.nesterov": "optimizer=nesterov",
    "optimizer.beta1": "optimizer=adam",
    "optimizer.beta2": "optimizer=adam",
    "optimizer.epsilon": "optimizer=adam",
    "batching.size": "batching=mini_batch",
    "early_stopping.patience": "early_stopping=validation",
    "early_stopping.min_delta": "early_stopping=validation",
    "data.source.path": "data=csv",
    "data.source.target": "data=csv",
    "data.source.folder": "data=mnist",
}
SIMILAR = 0.8  # of difflib's ratio, for a key that may stand anywhere


def meant_key(wrong: str, raw_config: Any = None) -> str | None:
    """Return the whole key that was probably meant, with the option that has it, if another is chosen; None if unknown.

    The last part of the key is compared: by the table of synonyms, then with the last part of every key that exists.

    Args:
        wrong: The key that does not exist.
        raw_config: The config whose keys exist; None to use the table only.
    """
    last = _last(wrong)
    existing = sorted(_keys(raw_config), key=lambda key: (key.count("."), key))
    key = MEANT.get(last)
    if key is None:
        return next((k for k in existing if _last(k) == last), None)
    if key in NEEDED and raw_config is not None and key not in existing:
        return f"{key} with {NEEDED[key]}"
    return None if key == wrong else key


def similar_key(wrong: str, raw_config: Any) -> str | None:
    """Return the key whose last part is written much like that of the wrong one; None if there is none."""
    by_last = {_last(key): key for key in sorted(_keys(raw_config), key=lambda key: -key.count("."))}
    similar = difflib.get_close_matches(_last(wrong), by_last, n=1, cutoff=SIMILAR)
    return by_last[similar[0]] if similar else None


def _last(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2].replace("-", "_").lower()


def _keys(raw_config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(raw_config, Mapping):
        for name, value in raw_config.items():
            if not str(name).startswith("_"):
                yield f"{prefix}{name}"
                yield from _keys(value, f"{prefix}{name}.")
