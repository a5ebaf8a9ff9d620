"""Write docs/evidence.md from what tables.py, criterion.py, ablation.py and fft_crossover.py have kept.

    python benchmarks/evidence.py                            the page alone
    python benchmarks/evidence.py --pictures --images FOLDER   its pictures too: restores two images again

No figure on the page is typed but the paper's own; sentences around the tables come from the template.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from trials import CPU, HERE, PAPER, QUICK, STORE, TRAINED, Data, Trial, read_store

from bigdecon.config import LOSS_PRESETS

DOCS = HERE.parent / "docs"
Record = dict[str, Any]

# Papkov et al. 2023: PSNR, SSIM, RMSE of Tables 1 and 3; PSNR, SSIM, MI, SMI, RMSE and seconds of training of
# Tables 2 and S1, 4 and S2.
PAPER_LOSSES = {
    2: {
        "input": (17.77, 0.18, 0.130),
        "noise2self": (22.49, 0.27, 0.079),
        "noise2self+bound": (22.51, 0.43, 0.079),
        "noise2same": (21.49, 0.23, 0.089),
        "noise2same+bound": (21.81, 0.41, 0.085),
        "noise2same-d": (22.79, 0.46, 0.078),
        "noise2same-d+bound": (22.67, 0.46, 0.078),
    },
    3: {
        "input": (21.21, 0.64, 0.087),
        "noise2self": (23.71, 0.39, 0.065),
        "noise2self+bound": (23.71, 0.39, 0.065),
        "noise2same": (24.08, 0.39, 0.063),
        "noise2same+bound": (24.02, 0.39, 0.063),
        "noise2same-d": (21.05, 0.82, 0.089),
        "noise2same-d+bound": (21.05, 0.82, 0.089),
    },
}
PAPER_METHODS: dict[int, dict[str, tuple[float | None, ...]]] = {
    2: {
        "input": (17.8, 0.18, 0.07, 0.18, 0.131, None),
        "Richardson-Lucy, 2 iterations": (22.0, 0.47, 0.13, 0.25, 0.086, None),
        "Richardson-Lucy, 5 iterations": (22.2, 0.44, 0.12, 0.25, 0.082, None),
        "Richardson-Lucy, 10 iterations": (21.1, 0.36, 0.10, 0.25, 0.091, None),
        "Richardson-Lucy, 20 iterations": (18.5, 0.26, 0.08, 0.19, 0.119, None),
        "SSI": (22.0, 0.46, 0.14, 0.26, None, 442),
        "siamese, noise2same-d": (22.8, 0.46, 0.13, 0.30, 0.078, 856),
    },
    3: {
        "input": (21.2, 0.64, None, None, 0.087, None),
        "Richardson-Lucy, 2 iterations": (22.4, 0.32, None, None, 0.076, None),
        "Richardson-Lucy, 5 iterations": (21.8, 0.33, None, None, 0.080, None),
        "Richardson-Lucy, 10 iterations": (21.5, 0.44, None, None, 0.084, None),
        "Richardson-Lucy, 20 iterations": (21.3, 0.55, None, None, 0.086, None),
        "SSI": (22.6, 0.39, None, None, 0.074, 2814),
        "siamese, noise2same": (24.1, 0.39, None, None, 0.062, 8160),
    },
}
TUNED_NAMES = {
    "richardson-lucy": "Richardson-Lucy, tuned",
    "conjugate-gradient": "conjugate gradient, tuned",
    "chambolle-pock": "Chambolle-Pock, tuned",
    "wiener": "Wiener, tuned",
}
PUBLISHED_LOSS = {2: "noise2same-d", 3: "noise2same"}
PLAIN = "plain richardson-lucy"


SHAPES_3D = {CPU.name: [64, 128, 128], PAPER.name: [128, 256, 512], QUICK.name: [8, 24, 24]}


class Rows:
    """The finished trials on one set of images: one number of dimensions and one size of training."""

    def __init__(self, records: Iterable[Record], ndim: int, settings: str) -> None:
        self.ndim = ndim
        own = [r for r in records if len(r["shape_seen"]) == ndim and self._belongs(r, settings)]
        # Simulated 2D images only where there are no others.
        real = [r for r in own if not r["data"]["shape"]]
        self.records = real if ndim == 2 and real else own
        self.inputs = {_image(r): _affine(r) for r in self.of("input")}

    @staticmethod
    def _belongs(record: Record, settings: str) -> bool:
        if record["method"] in TRAINED and record["settings"]["name"] != settings:
            return False
        if len(record["shape_seen"]) == 3:
            return bool(record["data"]["shape"] == SHAPES_3D[settings])
        return bool(record["data"]["crop"]) == (settings == QUICK.name)

    def of(self, method: str, **options: Any) -> list[Record]:
        """Give the trials of one method with just these options."""
        return [r for r in self.records if r["method"] == method and r["options"] == options]

    def gains(self, found: Sequence[Record], result: str = "") -> list[float]:
        """Give by how much results are above their own inputs, affine PSNR in dB."""
        return [_affine(r, result) - self.inputs[_image(r)] for r in found if _image(r) in self.inputs]


def _image(record: Record) -> str:
    """Name the image of a trial."""
    return json.dumps(record["data"], sort_keys=True)


# --- tables --------------------------------------------------------------------------------------


def figure(values: Sequence[float | None], digits: int) -> str:
    """Give the mean and, of several, the standard deviation."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{spread}"


def scores(records: Sequence[Record], result: str = "") -> list[str]:
    """Give PSNR plain and affine, SSIM plain and affine, MI, SMI, RMSE as cells."""

    def column(row: str, name: str) -> list[float | None]:
        return [r["scores"][result][row][name] for r in records]

    return [
        figure(column("plain", "psnr"), 2),
        figure(column("affine", "psnr"), 2),
        figure(column("plain", "ssim"), 2),
        figure(column("affine", "ssim"), 2),
        figure(column("plain", "mi"), 3),
        figure(column("plain", "smi"), 3),
        figure(column("plain", "rmse"), 3),
    ]


def table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Draw a Markdown table."""
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def losses_table(rows: Rows) -> str:
    """Draw Table 1 (2D) or 3 (3D): the loss and its weights, over the images that all losses have seen."""
    seen = [{_image(r) for r in rows.of("siamese", loss=name)} for name in LOSS_PRESETS]
    shared = set.intersection(*seen)
    lines = []
    published = PAPER_LOSSES[rows.ndim]
    column = "plain" if rows.ndim == 2 else "affine"
    for name in ("input", *LOSS_PRESETS):
        found = rows.of("input") if name == "input" else rows.of("siamese", loss=name)
        found = [r for r in found if _image(r) in shared]
        if not found:
            continue
        w = LOSS_PRESETS.get(name)
        weights = [f"{v:g}" for v in (w.bsp, w.rec, w.inv_d, w.inv, w.bound_d, w.bound)] if w else [""] * 6
        psnr, ssim, rmse = published[name]
        cells = scores(found)
        lines.append([name, *weights, f"{psnr}", f"{ssim}", f"{rmse}", str(len(found)), *cells[:4], cells[6]])
    heading = ["loss", "bsp", "rec", "inv (d)", "inv", "bound (d)", "bound"]
    paper = [f"paper: PSNR ({column})", "SSIM", "RMSE"]
    ours = ["n", "PSNR plain", "PSNR affine", "SSIM plain", "SSIM affine", "RMSE plain", "gain"]
    return table([*heading, *paper, *ours], lines)


def methods_table(rows: Rows) -> str:
    """Draw Tables 2 and S1 (2D) or 4 and S2 (3D): the methods."""
    lines = []
    for name, found, result in method_rows(rows):
        if not found:
            continue
        paper = PAPER_METHODS[rows.ndim].get(name, (None,) * 6)
        quoted = ["" if v is None else f"{v:g}" for v in paper]
        gain = figure(rows.gains(found, result), 2)
        lines.append([name, *quoted, str(len(found)), *scores(found, result), gain, *_cost(found)])
    heading = ["method", "paper: PSNR", "SSIM", "MI", "SMI", "RMSE", "train s"]
    ours = ["n", "PSNR plain", "PSNR affine", "SSIM plain", "SSIM affine", "MI", "SMI", "RMSE plain", "gain"]
    return table([*heading, *ours, "steps", "TFLOP", "train or tune, s", "restore, s"], lines)


def method_rows(rows: Rows) -> list[tuple[str, list[Record], str]]:
    """Name the rows of the methods' table, with their trials and which of a trial's results."""
    plain = rows.of(PLAIN)
    counts = sorted({int(k) for r in plain for k in r["scores"]})
    lucy = [(f"Richardson-Lucy, {k} iterations", plain, str(k)) for k in counts]
    tuned = [(text, rows.of(method), "") for method, text in TUNED_NAMES.items()]
    loss = PUBLISHED_LOSS[rows.ndim]
    siamese = rows.of("siamese")
    refined = sorted({k for r in siamese for k in r["scores"] if k}, key=lambda k: int(k.split()[1]))
    return [
        ("input", rows.of("input"), ""),
        *lucy,
        *tuned,
        ("SSI", rows.of("ssi"), ""),
        (f"siamese, {loss}", rows.of("siamese", loss=loss), ""),
        ("siamese, bigdecon's loss", siamese, ""),
        *((f"network, then {k.split()[1]} iterations of Richardson-Lucy", siamese, k) for k in refined),
    ]


def _cost(found: Sequence[Record]) -> list[str]:
    def middle(name: str, digits: int) -> str:
        values = [r[name] for r in found if r.get(name) is not None]
        return f"{np.median(values):.{digits}f}" if values else ""

    before = middle("seconds_training", 0) or middle("seconds_tuning", 0)
    return [middle("steps", 0), middle("TFLOP", 1), before, middle("seconds_inference", 1)]


# --- the criterion -------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """How the error at hidden voxels ranks the grid of one image."""

    image: str
    ndim: int
    settings: int
    correlation: float
    chosen: dict[str, float]
    best: dict[str, float]

    @property
    def lost(self) -> float:
        """PSNR of the best setting above that of the chosen one, in dB."""
        return self.best["psnr"] - self.chosen["psnr"]

    def cells(self) -> list[str]:
        """Give the line of the table."""
        figures = [_setting(self.chosen), f"{self.chosen['psnr']:.2f}", _setting(self.best)]
        counted = [f"{self.ndim}D {self.image}", str(self.settings), f"{self.correlation:.2f}"]
        return [*counted, *figures, f"{self.best['psnr']:.2f}", f"{self.lost:.2f}"]


def rank(record: Record) -> Ranking:
    """Rank the grid of one image by the error at hidden voxels, and by the truth."""
    grid, data, ndim = record["grid"], record["data"], len(record["shape_seen"])
    rho = float(spearmanr([-row["held_out"] for row in grid], [row["psnr"] for row in grid])[0])
    chosen = min(grid, key=lambda row: row["held_out"])
    best = max(grid, key=lambda row: row["psnr"])
    label = f"{data['name']}, seed {data['seed']}" if ndim == 3 else data["name"]
    return Ranking(label, ndim, len(grid), rho, chosen, best)


def criterion_table(records: Iterable[Record]) -> str:
    """Draw, for every image, how the error at hidden voxels ranks the grid, and what choosing by it costs."""
    rankings = [rank(r) for r in records if r["method"] == "grid of richardson-lucy"]
    lines = [ranking.cells() for ranking in rankings]
    for ndim in (2, 3):
        of_kind = [ranking for ranking in rankings if ranking.ndim == ndim]
        if of_kind:
            rho = _with_error([ranking.correlation for ranking in of_kind])
            lost = _with_error([ranking.lost for ranking in of_kind])
            lines.append([f"**{ndim}D, mean of {len(of_kind)}**", "", rho, "", "", "", "", lost])
    grid = ["image", "settings", "rank correlation", "chosen: background, sieve, iterations", "its PSNR, dB"]
    return table([*grid, "best by the truth", "its PSNR, dB", "lost by choosing, dB"], lines)


def _setting(row: Record) -> str:
    return f"{row['background']:.3f}, {row['sieve']:g}, {row['iterations']}"


def _with_error(values: Sequence[float]) -> str:
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}"


def trainings_table(rows: Rows) -> str:
    """Draw how the error at hidden voxels ranks trainings of one volume."""
    found = [
        r
        for r in rows.records
        if r["method"] == "siamese" and "changes" not in r["options"] and r["data"]["seed"] == 0
    ]
    found.sort(key=lambda r: float(r["held_out"]["mean"]))
    lines = [
        [
            str(r["options"].get("loss", "bigdecon's")),
            f"{r['steps']:.0f}",
            f"{r['held_out']['mean']:.6f} ± {r['held_out']['standard_error']:.6f}",
            f"{r['scores']['']['affine']['psnr']:.2f}",
        ]
        for r in found
    ]
    page = table(["loss", "steps", "error at hidden voxels", "PSNR affine, dB"], lines)
    if len(found) > 2:
        held = [-r["held_out"]["mean"] for r in found]
        rho = float(spearmanr(held, [r["scores"][""]["affine"]["psnr"] for r in found])[0])
        page += f"\nRank correlation over these {len(found)} trainings: {rho:.2f}.\n"
    return page


# --- the ideas -----------------------------------------------------------------------------------


def ablation_table(rows: Rows) -> str:
    """Draw what switching off each idea costs, over the same volumes."""
    lines = []
    for method in ("siamese", "richardson-lucy"):
        whole = {_image(r): _affine(r) for r in rows.of(method)}
        name = "siamese" if method == "siamese" else "Richardson-Lucy, tuned"
        options = [r["options"] for r in rows.records if r["method"] == method and _is_ablation(r["options"])]
        for option in _unique(options):
            changed = {_image(r): _affine(r) for r in rows.of(method, **option)}
            seeds = sorted(set(whole) & set(changed))
            differences = [changed[s] - whole[s] for s in seeds]
            with_all = figure([whole[s] for s in seeds], 2)
            lines.append([name, _words(option), str(len(seeds)), with_all, _signed(differences)])
    siamese = rows.of("siamese")
    for k in sorted({k for r in siamese for k in r["scores"] if k}, key=lambda k: int(k.split()[1])):
        gains = [_affine(r, k) - _affine(r) for r in siamese]
        text = f"its result blurred again, then {k.split()[1]} iterations of Richardson-Lucy"
        whole_text = figure([_affine(r) for r in siamese], 2)
        lines.append(["siamese", text, str(len(siamese)), whole_text, _signed(gains)])
    for record in [r for r in rows.records if r["method"] == "unrolled"]:
        same = [r for r in siamese if r["data"] == record["data"]]
        if same:
            gain = [_affine(record) - _affine(same[0])]
            lines.append(
                [
                    "siamese",
                    "Richardson-Lucy inside the network",
                    "1",
                    f"{_affine(same[0]):.2f}",
                    _signed(gain),
                ]
            )
    return table(["method", "changed", "volumes", "PSNR affine unchanged, dB", "difference, dB"], lines)


def _affine(record: Record, result: str = "") -> float:
    return float(record["scores"][result]["affine"]["psnr"])


def _is_ablation(options: Record) -> bool:
    return bool(options) and "loss" not in options


def _unique(options: Iterable[Record]) -> list[Record]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(o, sort_keys=True) for o in options)]


def _words(option: Record) -> str:
    if "changes" in option:
        return ", ".join(option["changes"])
    ((name, value),) = option.items()
    return {"background": "background 0", "sieve": "no sieve", "accelerate": "not accelerated"}.get(
        name, f"{name} {value}"
    )


def _signed(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):+.2f}{spread}"


def crossover_table() -> str:
    """Draw the largest PSF for which direct convolution was faster."""
    kept = json.loads((HERE / "results" / "fft_crossover.json").read_text())
    lines = [[str(key), str(value)] for key, value in kept["largest_kernel_where_direct_wins"].items()]
    return table(["device and image", "largest side of a PSF with which direct convolution is faster"], lines)


# --- in short ------------------------------------------------------------------------------------


def in_short(flat: Rows, deep: Rows) -> str:
    """Say the outcome in sentences that follow from the figures."""
    lines = []
    for rows in (deep, flat):
        ranked = _ranking(rows)
        if not ranked:
            continue
        first = ", then ".join(f"{name} ({gain:+.2f} dB)" for gain, name in ranked[:4])
        lines.append(
            f"- {rows.ndim}D, mean gain over the input, affine PSNR, methods seen on all images: {first}."
        )
        lines += _against_plain(rows)
    lines += _of_background(deep)
    return "\n".join(lines) + "\n"


def _ranking(rows: Rows) -> list[tuple[float, str]]:
    """Order the methods by their mean gain; of rows that differ in iterations only the best one."""
    best: dict[str, tuple[float, str]] = {}
    for name, found, result in method_rows(rows):
        gains = rows.gains(found, result)
        if name == "input" or len(gains) < len(rows.inputs):
            continue
        several = found[0]["method"] == PLAIN or result.startswith("refined")
        family = name.split(",")[0] if several else name
        best[family] = max(best.get(family, (-99.0, "")), (mean(gains), name))
    return sorted(best.values(), reverse=True)


def _against_plain(rows: Rows) -> list[str]:
    """Compare the network with plain Richardson-Lucy: with the best number for all images, and for each."""
    network = {_image(r): _affine(r) for r in rows.of("siamese")}
    plain = {_image(r): r["scores"] for r in rows.of(PLAIN)}
    both = sorted(set(network) & set(plain))
    if not both:
        return []
    counts = list(plain[both[0]])
    by_count = {k: [plain[i][k]["affine"]["psnr"] for i in both] for k in counts}
    one = max(counts, key=lambda k: mean(by_count[k]))
    over_one = [network[i] - value for i, value in zip(both, by_count[one], strict=True)]
    over_each = [network[i] - max(plain[i][k]["affine"]["psnr"] for k in counts) for i in both]
    return [
        f"- {rows.ndim}D, the network (bigdecon's loss) over plain Richardson-Lucy, n = {len(both)}: "
        f"{_with_error(over_one)} dB where the number of iterations is the best for all ({one}), "
        f"{_with_error(over_each)} dB where it is chosen for each image by the truth (± standard error)."
    ]


def _of_background(rows: Rows) -> list[str]:
    whole = {_image(r): _affine(r) for r in rows.of("richardson-lucy")}
    without = {_image(r): _affine(r) for r in rows.of("richardson-lucy", background=0.0)}
    lost = [whole[i] - without[i] for i in sorted(set(whole) & set(without))]
    if not lost:
        return []
    return [f"- 3D, what tuned Richardson-Lucy loses without its background: {_with_error(lost)} dB."]


# --- pictures ------------------------------------------------------------------------------------


def draw_pictures(images: Path | None) -> None:
    """Restore two images by several methods; draw them side by side, scaled to the truth, in one contrast."""
    from trials import _restore, simulated

    from bigdecon.evaluation.metrics import affine_fit
    from bigdecon.evaluation.pictures import comparison_picture

    cases = {"filaments": Data("filaments", (64, 128, 128))}
    if images:
        cases["drosophila"] = Data(str(next(images.glob("drosophila*.png"))))
    for name, data in cases.items():
        truth, noisy, psf = simulated(data)
        columns = {"input": noisy}
        lucy = _restore(Trial(data, PLAIN), noisy, psf, "cpu")["results"]
        columns["Richardson-Lucy, 3"] = lucy["3"]
        for method, title in (("richardson-lucy", "Richardson-Lucy, tuned"), ("siamese", "siamese")):
            columns[title] = _restore(Trial(data, method, settings=CPU), noisy, psf, "cpu")["results"][""]
        columns["truth"] = truth
        picture = DOCS / f"evidence_{name}.png"
        fitted = [(title, affine_fit(image, truth).apply(image)) for title, image in columns.items()]
        comparison_picture(fitted, picture, voxel_size_um=psf.voxel_size_um, one_window=True)
        print(picture)


# --- the page ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--output", type=Path, default=DOCS / "evidence.md")
    parser.add_argument(
        "--settings", choices=["cpu", "gpu", "quick"], default="cpu", help="size of trainings"
    )
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    if options.pictures:
        draw_pictures(options.images)
    records = list(read_store(options.store).values())
    parts: dict[str, Callable[[], str]] = {"machine": lambda: _machines(records)}
    size = {"cpu": CPU, "gpu": PAPER, "quick": QUICK}[options.settings].name
    flat, deep = Rows(records, 2, size), Rows(records, 3, size)
    parts |= {
        "in short": lambda: in_short(flat, deep),
        "losses 2D": lambda: losses_table(flat),
        "losses 3D": lambda: losses_table(deep),
        "methods 2D": lambda: methods_table(flat),
        "methods 3D": lambda: methods_table(deep),
        "trainings": lambda: trainings_table(deep),
        "ablation": lambda: ablation_table(deep),
    }
    parts |= {"criterion": lambda: criterion_table(records), "crossover": crossover_table}
    template = (HERE / "evidence_template.md").read_text()
    for name, make in parts.items():
        mark = f"<!-- {name} -->"
        if mark in template:
            template = template.replace(mark, make())
    options.output.write_text(template)
    print(options.output)


def _machines(records: Iterable[Record]) -> str:
    """Name the machines and commits of all trials."""
    lines = sorted({(r["machine"]["processor"], r["device"], r["commit"] or "") for r in records})
    return table(["processor", "device", "commit"], [list(map(str, line)) for line in lines])


if __name__ == "__main__":
    main()
