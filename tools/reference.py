"""``python -m tools.reference``: write docs/reference/ from the code.

Config keys come from conf/ and the classes that it names, probes from their docstrings, commands from click, metrics
from the table of their names.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping

import click
import yaml

from experiments.command import experiment
from pipeline.cli import commands
from pipeline.config.instantiate import import_target
from pipeline.paths import CONF, PROJECT
from pipeline.reproducibility.exchange.manifest import TABLE_FILE
from pipeline.reproducibility.hash_chain import CHAIN_FILE, HEAD_TAG, NORMS_TAG
from pipeline.sweeps.slurm.task import JOB_TAG, LOG_TAG
from pipeline.tracking import tags
from pipeline.tracking.metric_names import SERIES, WORST
from pipeline.training.parameter_file import PARAMETERS_FILE
from tools.config_reference import allowed, config_sections, members, options, shown
from tools.docstrings import code, description, meanings, table

FOLDER = PROJECT / "docs" / "reference"
WRITTEN = "Written by `python -m tools.reference` from the code. Do not edit; run it again."
ARTIFACTS = {  # of a run, and what they hold
    tags.VERDICT_FILE: "the explanation of the verdict, in plain words",
    tags.CONFIG_FILE: "the resolved config; it alone makes the run again",
    tags.PROVENANCE_FILE: "commit, machine, BLAS, digests of config, code and data, and the cell's fingerprint",
    tags.RECORDS_FILE: "every recorded value: step, probe, layer, replicate, bin, value; infinities and NaNs, too",
    PARAMETERS_FILE: "the final weights and biases of all replicates (`tracking.parameters`)",
    tags.FIGURE_FILE: "δ and the weight gradient against layer, at the start and the end (`tracking.figures`)",
    tags.THEORY_FILE: "what mean-field theory expects, by layer",
    tags.DATA_FILE: "what was read: rows, columns, classes",
    CHAIN_FILE: "the hash chain over batches, parameters and gradients, with norms",
    tags.PACKAGES_FILE: "the installed packages with their versions",
    tags.PATCH_FILE: "uncommitted changes of the code; only if there are any",
    tags.DIVERGENCE_FILE: "the first value that is not finite; only if the run diverged",
    tags.LAST_STEPS_FILE: "the probes at the last steps before it; only if the run diverged",
    "run.log": "what the run did, and the time of each probe; `run.1.log` after it resumed",
    "traceback.txt": "the place of an error; only if the run failed",
}
TAGS = {  # of runs and summaries, as far as MLflow's pages show them
    tags.VERDICT_TAG: "the classes of the verdict; `–` without one",
    tags.DECADES_TAG: "decades of δ lost, with their 95% interval",
    "verdict_at_start": "the verdict before training",
    "verdict_at_end": "the verdict after training",
    "kind": "`run`, or `sweep` for a summary",
    "overrides": "the words that compose this run alone",
    tags.SWEEP_TAG: "the ids of the sweeps and studies that the run belongs to",
    "diverged": "whether a number of the training was not finite",
    "diverged_at_step": "the first step with such a number",
    "diverged_replicates": "the replicates that diverged",
    HEAD_TAG: "the hash of the whole trajectory",
    NORMS_TAG: "a digest of the norms in the hash chain",
    tags.STOPPED_STEP_TAG: "the step at which early stopping ended the training",
    tags.PRUNED_TAG: "why a search ended the trial early",
    tags.PRUNED_STEP_TAG: "at which step",
    "optuna_trial": "the number of the trial",
    "error": "why the run failed",
    "imported": "whether the run came from an export; `imported.run_id` and `imported.seal` say which",
    "sweep_summary": "the id of the sweep that a summary is about",
    "prescribed_for": "the run whose remedies a summary is about",
    "claim.KEY": "whether a claim of a published result is within its tolerance",
    JOB_TAG: "the task of Slurm that trained the run, for `sacct -j`",
    LOG_TAG: "the file with the output of that task",
}
SWEEP_ARTIFACTS = {
    "sweep.png": "scores and decades of all cells",
    "profiles.png": "δ against layer of all cells",
    TABLE_FILE: "the table with every final number and its interval",
    "sweep.log": "what the sweep did, and where its time went",
}


def page(title: str, question: str, *parts: str) -> str:
    """Return a page with its title, the question that it answers, and the note that it is written."""
    return "\n\n".join([f"# {title}", f"*{question}* {WRITTEN}", *parts]) + "\n"


def config_page() -> str:
    """Return the page of all config keys with their defaults and ranges."""
    return page(
        "Config keys",
        "Which keys and options are there, and what may they be?",
        "`group=option` chooses a file of `conf/`, `key=value` changes a key ([how](../how-to/configure.md)). A value "
        "that is not allowed is refused in one line before anything runs. `gradvitals show` prints the config that "
        "your words give. A default `???` must be given.",
        *config_sections(),
    )


def probes_page() -> str:
    """Return the page of all probes with their equations."""
    sets = {
        name: [option for option in options("probes") if name in members(option).values()] for name in options("probe")
    }
    rows, keys = [], []
    for name in options("probe"):
        raw = yaml.safe_load((CONF / "probe" / f"{name}.yaml").read_text(encoding="utf-8"))
        kind = import_target(raw["_target_"], name, None)
        rows.append((f"`{name}`", description(kind), code(sets[name]) or "–", f"{WORST.get(name, '')}"))
        for key, default in raw.items():
            if key not in ("_target_", "_partial_") and not isinstance(default, Mapping):
                keys.append(
                    (
                        f"`probes.{name}.{key}`",
                        f"`{shown(default)}`",
                        allowed(kind, raw, key),
                        (meanings(kind) if inspect.isclass(kind) else {}).get(key, ""),
                    )
                )
    return page(
        "Probes",
        "Which quantities are measured, and what are their equations?",
        "A probe measures a layer at a step ([when](../explanation/measuring.md)). δ_b = ∂C_b/∂z is the error of one "
        "example, *not* divided by the batch size B; ⟨·⟩ is the mean over the batch; l is the number of the layer, "
        "n_l its number of units. *Worst* says which layer's value is logged as `PROBE/worst`; for any other probe, "
        "such as one of your own, it is the value farthest from 0. [How to write one](../how-to/own-probe.md); [what "
        "they cost](../measuring_cost.md).",
        table(("probe", "definition", "in the set", "worst"), rows),
        "`+probe@probes.NAME=NAME` adds a probe, `~probes.NAME` removes one.",
        "## Options\n\n" + table(("key", "default", "values", "meaning"), keys),
    )


def commands_page() -> str:
    """Return the page of all commands with their options."""
    made = re.findall(r"^([a-z]+):.*?## (.*)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    found = {
        name: command
        for name, command in sorted({**commands.commands, "experiment": experiment}.items())
        if not command.hidden
    }
    return page(
        "Commands",
        "What does each command do, and which options has it?",
        "`gradvitals COMMAND` in an environment where the package is installed, `.venv/bin/python -m pipeline "
        "COMMAND` in a checkout, or `make TARGET`. Words `KEY=VALUE` are [config keys](config.md). Exit codes: 0 "
        "success, 1 a failure or a difference, 2 refused input, 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal.",
        *(command_section(name, command) for name, command in found.items()),
        "## Targets of make\n\nVariables of a target stand in brackets; words `key=value` are passed on.\n\n"
        + table(("target", "what it does"), ((f"`make {name}`", text) for name, text in made)),
    )


def command_section(name: str, command: click.Command) -> str:
    """Return the section of one command: its usage, help, options, time and examples."""
    context = click.Context(command, info_name=f"gradvitals {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    time, _, examples = (command.epilog or "").partition("\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip() not in ("", "\b", "Example:")]
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            metavar = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
            shown_default = (
                parameter.default if isinstance(parameter.default, int | float) and not parameter.is_flag else ""
            )
            rows.append(
                (
                    f"`{', '.join(parameter.opts)}{metavar}`",
                    parameter.help or "",
                    f"`{shown_default}`" if shown_default != "" else "",
                )
            )
    parts = [f"## {name}", f"```\n{usage}\n```", inspect.cleandoc(command.help or "").replace("\n\n", "\n\n")]
    if rows:
        parts.append(table(("option", "", "default"), rows))
    parts.append(f"{time} Example:" if lines else time)
    if lines:
        parts.append("```\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def metrics_page() -> str:
    """Return the page of the names of all metrics and artifacts."""
    kinds = {kind: sorted(name for name, k in WORST.items() if k == kind) for kind in dict.fromkeys(WORST.values())}
    return page(
        "Metrics, tags and files of a run",
        "What does MLflow have of a run, and under which names?",
        "## Metrics",
        "`tracking.metrics` chooses the series: `summary` (default), a list of probes, or `all`, which includes the "
        "others ([how](../explanation/measuring.md#what-is-logged)). Fields stand in braces: `norm` is "
        "`gradient_norm` or `delta_rms`; `quantity` is `cost`, and `accuracy` or `r2`; `part` is `train`, "
        "`validation` (if there is such a set) or `test`; `end` is `start` or `end`; `bound` is `low` or `high`; "
        "`layer` is `layer_01`, ...; `probe` is any other probe that has layers; `whole` is a probe without layers, "
        "such as `sharpness`; `measured` and `measurement` are any probe; `record` is any probe or `quantity/part`; "
        "`profiled` is `bias_gradient_norm`; `activity` is `evaluation`, `watch`, `tracking`, `files`, `chain` or "
        "`checkpoints`. `listed` are the probes that `tracking.metrics` names. Histograms and spectra are in the "
        "run's files only.",
        table(("metric", "`tracking.metrics`", "value"), ((f"`{s.pattern}`", s.choice, s.meaning) for s in SERIES)),
        "The worst layer has this value:",
        table(("worst", "probes"), ((kind, code(names)) for kind, names in kinds.items())),
        "## Tags",
        "`tags.verdict LIKE '%vanishing%'` in MLflow's search box finds the runs with a tag.",
        table(("tag", "value"), ((f"`{name}`", text) for name, text in TAGS.items())),
        "## Files of a run",
        table(("artifact", "holds"), ((f"`{name}`", text) for name, text in ARTIFACTS.items())),
        "## Files of a sweep's summary",
        table(("artifact", "holds"), ((f"`{name}`", text) for name, text in SWEEP_ARTIFACTS.items())),
    )


PAGES = {"config.md": config_page, "probes.md": probes_page, "commands.md": commands_page, "metrics.md": metrics_page}


def main() -> int:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, written in PAGES.items():
        (FOLDER / name).write_text(written(), encoding="utf-8")
        print(f"wrote {(FOLDER / name).relative_to(PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
