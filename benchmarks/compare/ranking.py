"""Times to an accuracy, and the tables, from the records of a run."""

from _common import by_round, caption, markdown_table, median, number, select
from peers import BY_NAME, REFERENCE

MARGIN = 1.0
"""Points of P@1 below the reference's last epoch that count as having reached it."""

TIE = 0.1
"""Epochs that are as good as nothing when a learning rate is chosen, with points of a few seeds."""


def curve(records, system, round_number):
    """Accuracy over training time.

    Returns
    -------
    list of (float, list of float)
        Seconds of training since the start, and P@1, P@3, P@5 then; one pair for each epoch.
    """
    seconds, points = 0.0, []
    epochs = select(records, "epoch", system=system, round=round_number)
    for line in sorted(epochs, key=lambda line: line["epoch"]):
        seconds += line["seconds"]
        points.append((seconds, line["precision"]))
    return points


def seconds_to(points, target):
    """Seconds until the first epoch's end with at least that P@1; None if there is none."""
    return next((seconds for seconds, precision in points if precision[0] >= target), None)


def rounds_of(records):
    """The numbers of the rounds."""
    return sorted({line["round"] for line in records if "round" in line})


def targets(records, margin=MARGIN):
    """In each round the P@1 to reach: the reference's last, less the margin; {} without it."""
    found = {}
    for number_ in rounds_of(records):
        points = curve(records, REFERENCE, number_)
        if points:
            found[number_] = points[-1][1][0] - margin
    return found


def times_to_target(records, system, goals):
    """{round: seconds or None} until a system reaches the round's target."""
    return {
        number_: seconds_to(curve(records, system, number_), goal)
        for number_, goal in goals.items()
        if curve(records, system, number_)
    }


def _median_of_all(times):
    """Median over the rounds; None if a round did not get there."""
    if not times or None in times.values():
        return None
    return median(times.values())


def _ratios(reference, times):
    """Median over the rounds of the reference's time by the system's; None if one is missing."""
    both = [(reference[n], times[n]) for n in times if n in reference]
    if not both or any(None in pair for pair in both):
        return None
    return median([there / here for there, here in both])


def epochs_to(precision, target):
    """Epochs until that P@1, between the ends of two epochs along a straight line; None: never."""
    before = 0.0
    for done, now in enumerate(precision):
        if now >= target:
            return done + (target - before) / (now - before)
        before = now
    return None


def rate_target(records, margin=MARGIN):
    """The held-out P@1 to reach: the best last one of the reference, less the margin, or None."""
    found = select(records, "tuning", system=REFERENCE)
    return max(curve[-1] for _, curve in found[0]["precision"]) - margin if found else None


def best_rates(records):
    """{system: learning rate} of the systems whose rate was chosen.

    Of those with the fewest epochs until the target, or `TIE` more, that with the highest last
    P@1; if none gets there, or there is no target, of all.
    """
    target = rate_target(records)
    chosen = {}
    for line in select(records, "tuning"):
        reached = {}
        if target is not None:
            epochs = {rate: epochs_to(curve, target) for rate, curve in line["precision"]}
            reached = {rate: number_ for rate, number_ in epochs.items() if number_ is not None}
        last = {rate: curve[-1] for rate, curve in line["precision"]}
        least = min(reached.values(), default=0.0)
        first = [rate for rate, number_ in reached.items() if number_ <= least + TIE]
        chosen[line["system"]] = max(first or last, key=last.get)
    return chosen


def rates_table(records):
    """Last P@1 and epochs to the target on held-out points, one column a rate; "" without."""
    lines = select(records, "tuning")
    if not lines:
        return ""
    target, chosen = rate_target(records), best_rates(records)
    rates = sorted({rate for line in lines for rate, _ in line["precision"]})
    rows = []
    for line in lines:
        curves = dict(map(tuple, line["precision"]))
        cells = [line["system"]]
        for rate in rates:
            text = ""
            if rate in curves:
                epochs = epochs_to(curves[rate], target) if target is not None else None
                text = number(curves[rate][-1]) + (f" ({epochs:.1f})" if epochs else "")
            cells.append(f"**{text}**" if rate == chosen[line["system"]] else text)
        rows.append(cells)
    title = "P@1 on held-out training points after the last epoch"
    if target is not None:
        title += f" (epochs until {target:.1f}, {REFERENCE}'s best less {MARGIN:g})"
    name = select(records, "set")[0]["set"]
    header = ["system", *(f"{rate:g}" for rate in rates)]
    return "\n" + markdown_table(header, rows, caption(f"{name}: {title}; **chosen**.", records))


def last_line(message):
    """The last line of an error's text, fit for a table."""
    lines = [line.strip() for line in message.replace("\r", "\n").splitlines() if line.strip()]
    return (lines[-1] if lines else "no message").replace("|", "/")[:160]


def failures(records):
    """Markdown lines of the systems that did not run, and why."""
    lines = []
    for line in select(records, "error"):
        lines.append(f"- {line['system']}: {last_line(line['error'])}\n")
    return "".join(["\nNot in the table:\n\n", *lines]) if lines else ""


def _systems(records):
    seen = {line["system"] for line in records if line["record"] in ("epoch", "speed")}
    return [name for name in BY_NAME if name in seen]


def _peak(records, system):
    ends = select(records, "end", system=system)
    return number(median(line["peak_rss_mb"] for line in ends), 0)


def _title(records):
    """What was trained on what, for the caption."""
    about = select(records, "set")[0]
    run = select(records, "run")[0]
    return (
        f"{about['set']}: {about['train']:,} training and {about['test']:,} test points, "
        f"{about['features']:,} features ({about['nnz_per_point']} a point), {about['labels']:,} "
        f"labels ({about['labels_per_point']} a point). {run['hidden']} hidden, batch "
        f"{run['batch_size']}, {run['threads']} threads, {run['repeats']} alternating rounds."
    )


def accuracy_table(records):
    """One row for each system, the fastest to the reference's accuracy first.

    A system that does not get there comes after all that do, the most accurate first.
    """
    goals = targets(records)
    reference = times_to_target(records, REFERENCE, goals)
    rows = []
    for name in _systems(records):
        lines = select(records, "epoch", system=name)
        last = max(line["epoch"] for line in lines)
        final = [line for line in lines if line["epoch"] == last]
        scores = [median(line["precision"][k] for line in final) for k in range(3)]
        times = times_to_target(records, name, goals)
        reached = _median_of_all(times)
        if reached is None:
            text, ratio_text = "not reached" if goals else "n/a", "n/a"
        else:
            text = number(reached, 2)
            ratio_text = number(_ratios(reference, times), 2)
        trained = {}
        for line in lines:
            trained[line["round"]] = trained.get(line["round"], 0) + line["seconds"]
        network = BY_NAME[name].network
        rate = lines[0].get("learning_rate")
        cells = [
            name,
            f"{rate:g}" if rate else "n/a",
            str(last) if network else "one fit",
            *(number(score) for score in scores),
            number(median(line["psp_at_1"] for line in final)),
            number(median(by_round(lines, "seconds").values()), 2),
            number(median(trained.values()), 2),
            text,
            ratio_text,
            _peak(records, name),
        ]
        key = (reached is None, reached if reached is not None else -scores[0])
        rows.append((key, cells))
    rows.sort(key=lambda row: row[0])
    header = ["system", "learning rate", "epochs", "P@1", "P@3", "P@5", "PSP@1", "s/epoch"]
    header += ["s in all", "s to target", f"{REFERENCE}'s s / its s", "peak MB"]
    goal = median(goals.values())
    title = _title(records)
    if goal is not None:
        title += f" The target is P@1 {goal:.1f}: {REFERENCE}'s last, less {MARGIN:g}."
    table = markdown_table(header, [cells for _, cells in rows], caption(title, records))
    return table + failures(records)


def speed_table(records):
    """One row for each system, the most samples per second first."""
    speeds = {}
    for name in _systems(records):
        lines = select(records, "speed", system=name) or select(records, "epoch", system=name)
        speeds[name] = {line["round"]: line["samples"] / line["seconds"] for line in lines}
    rows = []
    for name, speed in sorted(speeds.items(), key=lambda item: -median(item[1].values())):
        lines = select(records, "speed", system=name) or select(records, "epoch", system=name)
        final = [line["precision"][0] for line in lines if "precision" in line]
        shared = [n for n in speed if n in speeds.get(REFERENCE, {})]
        versus = median([speed[n] / speeds[REFERENCE][n] for n in shared])
        setup = median(line["seconds"] for line in select(records, "setup", system=name))
        rows.append(
            [
                name,
                number(median(speed.values()), 0),
                number(versus, 2),
                number(median(line["samples"] for line in lines), 0),
                number(setup, 2),
                number(median(final), 2),
                _peak(records, name),
            ]
        )
    header = ["system", "samples/s", f"by {REFERENCE}'s", "samples timed", "first batch, s"]
    header += ["P@1", "peak MB"]
    table = markdown_table(header, rows, caption(_title(records), records))
    return table + failures(records)


def table(records):
    """The table that fits the run: speed if only some batches of the reference were timed."""
    wide = select(records, "run")[0]["wide"]
    return speed_table(records) if wide else accuracy_table(records)
