"""The report as HTML: text, tables and where the figures stand. Everything from outside is escaped."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from coppice import plots
from coppice.show import export_rows, export_titles, times_smaller
from coppice.yamlfile import to_yaml

if TYPE_CHECKING:
    from coppice.pruning.contract import ExportReport
    from coppice.report_facts import Facts


def page(facts: Facts) -> str:
    """The whole page."""
    template = (files(__package__) / "report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=_text(f"{facts.run.name}: Coppice report"),
        name=_text(facts.run.name),
        state=_text(_STATES[facts.record.state]),
        state_class=_text(facts.record.state),
        about=_text(_about(facts)),
        notice=_notice(facts) + _left_out(facts),
        headline=_headline(facts),
        cards="".join(_cards(facts)),
        sections="".join(_sections(facts)),
    )


_STATES = {"running": "not finished", "over": "finished", "failed": "failed"}


def _about(facts: Facts) -> str:
    record, run = facts.record, facts.run
    started = f", started {record.started}" if record.started else ""
    return (
        f"run {record.run_id}, seed {run.seed}, {run.model.name} on {run.data.name}{started}, "
        f"Coppice {record.version}"
    )


def _notice(facts: Facts) -> str:
    """What a reader must know before the numbers."""
    if facts.record.state == "over":
        return ""
    done = sum(r.iterations for r in facts.rounds)
    where = (
        f"{done:,} of {facts.run.rounds.tmax:,} iterations in {_count(len(facts.rounds), 'round', 'rounds')}"
    )
    if facts.under_way is not None:
        where += f", search {facts.under_way} under way"
    if facts.record.state == "failed" or facts.reason:
        why = facts.reason or "nothing says why"
        return f'<p class="notice bad"><b>This run failed:</b> {_text(why)} ({_text(where)}).</p>'
    return (
        f'<p class="notice"><b>This run is not finished:</b> {_text(where)}. The page shows what its work '
        "folder said when it was written; the test set is read once, at the end.</p>"
    )


def _left_out(facts: Facts) -> str:
    """Which searches no number or figure of the page knows of."""
    if not facts.left_out:
        return ""
    which = ", ".join(facts.left_out)
    return (
        f'<p class="notice bad"><b>Missing:</b> {_text(which)}. What was scored in those searches is in no '
        "number or figure of this page.</p>"
    )


def _headline(facts: Facts) -> str:
    result = facts.result
    if result is not None:
        return _hero(
            result.compression,
            f"{result.parameters_remaining:,} of {result.parameters_total:,} parameters remain. "
            f"On the test set the pruned network is right for {_percent(result.pruned_accuracy)} of the "
            f"samples, the dense one for {_percent(result.reference_accuracy)}.",
        )
    if not facts.rounds:
        return '<p class="hero-text">No round is done yet.</p>'
    last = facts.rounds[-1]
    return _hero(
        last.best_compression,
        "The best network so far that keeps the constraint on the held-out samples. After the last round it "
        f"is {last.compression:.1f}x at {_percent(last.accuracy)} accuracy.",
    )


def _hero(compression: float, text: str) -> str:
    share = 100 / max(1.0, compression)
    return (
        f'<p class="hero"><span class="big">{compression:.1f}x</span> smaller</p>'
        f'<div class="bar" aria-hidden="true"><div style="width: {share:.4g}%"></div></div>'
        f'<p class="hero-text">{_text(text)}</p>'
    )


def _cards(facts: Facts) -> Iterable[str]:
    result = facts.result
    if result is not None:
        yield _card(
            "test accuracy",
            _percent(result.pruned_accuracy),
            f"dense network {_percent(result.reference_accuracy)}",
        )
        yield _card("parameters kept", f"{result.parameters_remaining:,}", f"of {result.parameters_total:,}")
        yield _card("weights kept", f"{result.weights_remaining:,}", f"of {result.weights_total:,}")
        held_out: float | None = result.validation_accuracy
    else:
        best = facts.rounds[-1].best_compression if facts.rounds else None
        total = facts.parameters_total
        yield _card(
            "parameters kept",
            f"{round(total / best):,}" if total and best else "none yet",
            f"of {total:,}, by the best network so far" if total else "",
        )
        held_out = facts.rounds[-1].accuracy if facts.rounds else None
    yield _card(
        "held-out accuracy",
        "none yet" if held_out is None else _percent(held_out),
        "" if facts.reference is None else f"dense network {_percent(facts.reference)}",
    )
    evaluations = [fitness for history in facts.histories for fitness in history.fitness]
    feasible = sum(fitness <= 1 for fitness in evaluations)
    lengths = sorted({min(stage.round, stage.end - stage.begin) for stage in facts.run.stages})
    each = " or ".join(f"{length:,}" for length in lengths)
    yield _card("rounds", f"{len(facts.rounds)}", f"{each} iterations each")
    yield _card("searches", f"{len(facts.histories)}", f"by {facts.run.search.method}")
    workers = len(_workers(facts))
    yield _card(
        "evaluations",
        f"{len(evaluations):,}",
        f"{feasible / len(evaluations):.0%} feasible, by {_count(workers, 'evaluator', 'evaluators')}"
        if evaluations
        else "",
    )
    if facts.seconds is not None:
        yield _card("time", _duration(facts.seconds), "of the outer loop, over all its starts")


def _card(name: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(note)}</small></dd></div>'
    )


# Sections


def _sections(facts: Facts) -> Iterable[str]:
    if facts.rounds:
        yield _section("Compression and accuracy", _rounds_figure(facts))
    if any(history.fitness for history in facts.histories):
        yield _section("The search", _fitness_figure(facts))
        yield _section("Crates", _crates_figure(facts))
    if facts.layers:
        yield _section("Layers", _layers_figure(facts) + _layers_table(facts))
    export = facts.result.export if facts.result else None
    if export is not None:
        yield _section("Size and speed", _export_table(export))
    if _workers(facts):
        yield _section("Evaluators", _workers_figure(facts))
    if facts.rounds:
        yield _section("Rounds", _rounds_table(facts))
    settings = to_yaml(facts.record.run_file)
    yield _section(
        "Settings",
        "<p>The run file with every default filled in; <code>coppice simulate</code> takes it as it is.</p>"
        f'<pre tabindex="0">{_text(settings)}</pre>',
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n"


def _figure(svg: str, label: str, caption: str) -> str:
    return (
        f'<figure><div class="plot" role="img" aria-label="{_text(label)}">{svg}</div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _rounds_figure(facts: Facts) -> str:
    rounds, run = facts.rounds, facts.run
    svg = plots.rounds_plot(
        [r.round for r in rounds],
        [r.compression for r in rounds],
        [r.accuracy for r in rounds],
        [r.feasible for r in rounds],
        reference=facts.reference,
        drops=[run.accuracy_drop(r.iteration - 1) for r in rounds],
        settled=[not run.stage_at(r.iteration - 1).cuts for r in rounds],
    )
    first, last = rounds[0], rounds[-1]
    label = (
        f"Two curves over {_count(len(rounds), 'round', 'rounds')}. Compression goes from "
        f"{first.compression:.1f}x to {last.compression:.1f}x, accuracy from "
        f"{_percent(first.accuracy)} to {_percent(last.accuracy)}."
    )
    caption = (
        "The network after each round of surgery; accuracy on the samples held out of the training set. "
        f"{_which_count(facts)}"
    )
    return _figure(svg, label, caption)


def _which_count(facts: Facts) -> str:
    """Which rounds count as results."""
    told = []
    broken = sum(not r.feasible for r in facts.rounds)
    if broken:
        told.append(f"Hollow red points ({broken}) miss the constraint and do not count as results.")
    lent = 0
    if facts.reference is not None:
        least = facts.reference - facts.run.constraint.accuracy_drop - 1e-9  # which is less than a sample
        lent = sum(r.feasible and r.accuracy < least for r in facts.rounds)
    if lent:
        told.append(
            f"{_count(lent, 'round keeps', 'rounds keep')} surgery.accuracy_drop, but not "
            "constraint.accuracy_drop, which a result must."
        )
    return " ".join(told) or "Every round keeps the constraint."


def _fitness_figure(facts: Facts) -> str:
    series = [
        plots.Series(h.search, np.array(h.fitness, dtype=np.float64), h.search != facts.under_way)
        for h in facts.histories
        if h.fitness
    ]
    best = min(float(each.fitness.min()) for each in series)
    found = "none is feasible"
    if best <= 1:
        found = f"the best keeps {_percent(best)} ({times_smaller(best)})"
    total = sum(len(each.fitness) for each in series)
    told = f"{_count(total, 'evaluation', 'evaluations')} in {_count(len(series), 'search', 'searches')}"
    missed = sum(int((each.fitness > 1).sum()) for each in series)
    further = "" if facts.run.constraint.compression is None else " or cut further than is asked for"
    return _figure(
        plots.fitness_plot(series),
        f"Fitness of {told}; {found}.",
        f"Every solution that was scored, on a logarithmic scale, lower is better: {told}; {found}. Red "
        f"crosses ({missed:,}) lose too much accuracy{further}: above 1, the more the worse. The green line "
        "is the best feasible so far of each search; every search begins with the network that surgery has "
        "repaired since the one before.",
    )


def _crates_figure(facts: Facts) -> str:
    told = [history for history in facts.histories if history.fitness]
    best = np.array([h.solutions[int(np.argmin(h.fitness))] for h in told])  # (searches, layers)
    layers = facts.layer_names
    return _figure(
        plots.crates_plot(layers, [h.search for h in told], best),
        f"The best crates of {_count(len(layers), 'layer', 'layers')} in each of {len(told)} searches.",
        "The best crates that each search found. A layer's threshold is mean(|w|) + crate · std(|w|): "
        "the higher, the harder the cut.",
    )


def _layers_figure(facts: Facts) -> str:
    kept = min(facts.layers, key=lambda layer: layer.fraction)
    most = max(facts.layers, key=lambda layer: layer.fraction)
    return _figure(
        plots.remaining_plot(
            [layer.name for layer in facts.layers], [layer.fraction for layer in facts.layers]
        ),
        f"Weights that remain in {_count(len(facts.layers), 'layer', 'layers')}, least in {kept.name} "
        f"({kept.fraction:.2%}), most in {most.name} ({most.fraction:.2%}).",
        "Weights that remain in each layer of the best network, on a logarithmic scale.",
    )


def _workers(facts: Facts) -> Counter[str]:
    counts = Counter(worker for history in facts.histories for worker in history.workers)
    by_hand = counts.pop("", 0)
    return counts + Counter({"by hand": by_hand})


def _workers_figure(facts: Facts) -> str:
    counts = _workers(facts)
    names = sorted(counts)
    busiest = max(names, key=lambda name: counts[name])
    return _figure(
        plots.workers_plot(names, [counts[name] for name in names]),
        f"Evaluations of {_count(len(names), 'evaluator', 'evaluators')}, most by {busiest} "
        f"({counts[busiest]:,}).",
        "Who scored how many solutions: host, process id and four random digits. An evaluator that was "
        "started again counts as another.",
    )


def _layers_table(facts: Facts) -> str:
    is_cut = any(layer.remaining < layer.total for layer in facts.layers)  # else no crates are in force
    rows = [
        [
            layer.name,
            " × ".join(str(n) for n in layer.shape),
            f"{layer.total:,}",
            f"{layer.remaining:,}",
            f"{layer.fraction:.2%}",
            "" if layer.crate is None or not is_cut else f"{layer.crate:.3f}",
        ]
        for layer in facts.layers
    ]
    total, kept = (sum(layer.total for layer in facts.layers), sum(layer.remaining for layer in facts.layers))
    foot = ["all", "", f"{total:,}", f"{kept:,}", f"{kept / max(1, total):.2%}", ""]
    return _table(
        "The layers of the best network",
        ["layer", "shape", "weights", "kept", "fraction", "crate"],
        rows,
        text_columns=2,
        foot=foot,
    )


def _export_table(export: ExportReport) -> str:
    rows = [
        [value + (f" ({better})" if better else "") for value, better in row] for row in export_rows(export)
    ]
    told = f"On {export.processor}, torch {export.torch}, the quietest of several measurements."
    if any(row for row in rows if row[0] != "dense"):
        told += " The files are in result/export/, with what loads them without Coppice."
    notes = "".join(f"<li>{_text(note)}</li>" for note in export.notes)
    return (
        _table(
            "The network's files, and what one pass through it takes",
            export_titles(export),
            rows,
            text_columns=1,
        )
        + f"<p>{_text(told)}</p>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _rounds_table(facts: Facts) -> str:
    rows = [
        [
            f"{r.round}",
            f"{r.iteration:,}",
            f"{r.searches}",
            f"{r.parameters_remaining:,}",
            f"{r.compression:.2f}x",
            _percent(r.accuracy),
            "yes" if r.feasible else "no",
            "" if r.loss is None else f"{r.loss:.4f}",
        ]
        for r in facts.rounds
    ]
    return _table(
        "The network after each round",
        ["round", "iterations", "searches", "parameters", "compression", "accuracy", "feasible", "loss"],
        rows,
        text_columns=0,
    )


def _table(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: int,
    foot: Sequence[str] | None = None,
) -> str:
    def cells(tag: str, row: Sequence[str], scope: str = "") -> str:
        sides = ["" if i < text_columns else ' class="n"' for i in range(len(row))]
        return "".join(
            f"<{tag}{side}{scope}>{_text(cell)}</{tag}>" for side, cell in zip(sides, row, strict=True)
        )

    head = "<thead><tr>" + cells("th", titles, ' scope="col"') + "</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    end = f"<tfoot><tr>{cells('td', foot)}</tr></tfoot>" if foot else ""
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption>{head}<tbody>{body}</tbody>{end}'
        "</table></div>"
    )


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _percent(fraction: float) -> str:
    return f"{fraction:.2%}" if not 0 < fraction < 0.001 else f"{100 * fraction:.2g}%"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
