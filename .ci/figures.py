#!/usr/bin/env python3
"""Runs the handler in the simulator of ../shared, prints its figures, and fails if one misses its bound.

figures.py              the scenarios of both suites, as .ci/run does it; an optional argument sets the number of seeds
figures.py families N   random families of quotas, with N seeds
"""

import operator
import pathlib
import subprocess
import sys

SHARED = pathlib.Path("..") / "shared"
FAMILY_SERVERS, FAMILY_SEED = "24", 511
FAMILY_BOUNDS = "eff >= 0.935  rej/ok <= 0.036  jain >= 0.90  fail% <= 0"

# The columns are named as the simulator prints them. rej/ok and err/ok are ratios, fail% is a percentage.
QUOTAS = """
tb_1x8          eff >= 0.97  rej/ok <= 0.025  fail% <= 0
tb_1x32_500     eff >= 0.97  rej/ok <= 0.015  fail% <= 0
gcra_1x8        eff >= 0.97  rej/ok <= 0.03   fail% <= 0
penal_1x8       eff >= 0.95  rej/ok <= 0.03
tb_10x4         eff >= 0.97  rej/ok <= 0.036  jain >= 0.87
fw_1x8          eff >= 0.95  rej/ok <= 0.055  fail% <= 0
fw_1x8_ra       eff >= 0.95  rej/ok <= 0.02   fail% <= 0
tb_1x8_ra       eff >= 0.95  rej/ok <= 0.025  fail% <= 0
tb_1x8_h        eff2 >= 0.99  rej/ok <= 0.002
fw_1x8_h        eff2 >= 0.99  rej/ok <= 0.002
up_1x16         eff >= 0.86
noise10_1x8     eff >= 0.89  fail% <= 0.05
out_503_closed  mk/det <= 3  amp <= 0.10  ttr <= 30  peak <= 1.3  fail% <= 0.2
metastable      eff >= 0.92  ttr <= 35
batch_600       mk/det <= 1.05  fail% <= 0
"""
# In these scenarios the handler must not add latency: at most 1 % more than plain backoff with full jitter.
NO_OVERHEAD, BASELINE, MOST_LATENCY = ("free_1x8", "open_half"), "full", 1.01

WORLDS = """
fast50_20_32     eff >= 0.90  rej/ok <= 0.04  fail% <= 0
fast50_20_8      eff >= 0.90  rej/ok <= 0.04  fail% <= 0
fast500_20_32    eff >= 0.85  rej/ok <= 0.04  fail% <= 0
fast50_200_32_ra eff >= 0.90  rej/ok <= 0.04  fail% <= 0
strict2          eff >= 0.75  fail% <= 0
burst64_80       makespan <= 6  fail% <= 0
burst32_64_ra    makespan <= 6  fail% <= 0
storm_600        eff >= 0.90  fail% <= 0
tpm_1x8          eff >= 0.91
tpm_1x8_h        eff >= 0.96
tpm_10x4         eff >= 0.97
slow_3rpm        eff >= 0.97  fail% <= 0
slow_3rpm_h      eff >= 0.97  fail% <= 0
conc1_1x4        eff >= 0.90  rej/ok <= 0.05  fail% <= 0
conc4_1x16       eff >= 0.90  rej/ok <= 0.05  fail% <= 0
conc16_1x64      eff >= 0.90  rej/ok <= 0.05  fail% <= 0
conc4_1x16_slow  eff >= 0.90  rej/ok <= 0.07  fail% <= 0
conc4_fit        eff >= 0.99  rej/ok <= 0
conc8_rpm        eff >= 0.99  rej/ok <= 0.04
chance01_600     eff >= 0.90  fail% <= 0
chance06_60      eff >= 0.85  fail% <= 0
chance15_600     eff >= 0.70  fail% <= 0
chance06_10x4    eff >= 0.85  fail% <= 0
free05           eff >= 0.85  fail% <= 0
free05_ra1       eff >= 0.85  fail% <= 0
free15           eff >= 0.70  fail% <= 0
n529_06_60       eff >= 0.90  fail% <= 0.1
n529_15_free     eff >= 0.90  fail% <= 0.1
ch06_60_503      eff >= 0.90  fail% <= 0.1
free10_503       eff >= 0.90  fail% <= 0.1
queue_128        fail% <= 6  eff >= 0.70
gpu_32           eff >= 0.80  fail% <= 0
queue_open       fail% <= 14  eff >= 0.90
rl503_10         fail% <= 0  err/ok <= 0.25
rl503_60rpm      fail% <= 0  err/ok <= 0.25
rl503_4x8        fail% <= 0  err/ok <= 0.25
sl_1x8_h2        eff >= 0.96
lie_zero60       eff >= 0.95
lie_reset60      eff >= 0.95
lie_full         eff >= 0.95
free_zero60      eff >= 0.95
tok_pools        eff >= 0.95
updown_60        find_s <= 90
updown_600       find_s <= 60
two_60           eff >= 0.97  jain >= 0.80
shards_4         eff >= 0.90  fail% <= 0
models_4         eff >= 0.97  jain >= 0.80
many20_6000      eff >= 0.97  rej/ok <= 0.03
many40_2400      eff >= 0.97
clock_back       eff >= 0.90
slow65           eff >= 0.95
diurnal          min1 >= 0.90
"""
# Outages, with the columns of QUOTAS.
OUTAGES = """
busy_out         mk/det <= 5  amp <= 0.10  ttr <= 30  fail% <= 0.2
busy_blip        ttr <= 30  fail% <= 0.2
busy_half        amp >= 0.5  ttr <= 60  fail% <= 0.3
"""
# These depend more on chance than the others, so their figures are means over more seeds: with three, those of one version differ by
# a tenth.
CHANCE, CHANCE_SEEDS = "strict2+storm_600+chance06_60+chance15_600+free15+many20_6000", 24
# Figures that the handler doesn't reach yet. Each has a weaker bound that it must keep; the table shows them as SHORT.
SHORT = {
    ("queue_open", "fail%"): 14.5,
    ("lie_reset60", "eff"): 0.89,
    ("updown_600", "find_s"): 160,
    ("busy_half", "ttr"): 170,
}
COMPARE = {">=": operator.ge, "<=": operator.le}


def run(file, pick, policies, seeds, *mode):
    command = [SHARED / "sim/run.sh", file, pick, policies, str(seeds), *mode]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tables(file, pick, policies, seeds):
    """The simulator's figures by scenario and policy, each a dict by column."""
    figures, scenario, columns = {}, "", []
    for line in run(file, pick, policies, seeds).splitlines():
        words = line.split()
        if line.startswith("## "):
            scenario = words[1].rstrip(":")
        elif words and words[0] == "policy":
            columns = words[1:]
        elif words:
            numbers = [float(word) for word in words[1:] if not word.startswith("[") and not word.endswith("]")]
            figures[scenario, words[0]] = dict(zip(columns, numbers))
    return figures


def worlds(pick, seeds):
    lines = [line.split() for line in run(SHARED / "scenarios/worlds.json", pick, "holysheep", seeds, "x").splitlines()]
    columns = [*lines[0][2:], "makespan"]
    return {(line[0], line[1]): dict(zip(columns, map(float, line[2:]))) for line in lines[1:]}


def checks(rows):
    for row in rows.strip().splitlines():
        scenario, *rest = row.split()
        for column, sign, bound in zip(*[iter(rest)] * 3):
            yield scenario, column, sign, float(bound)


def families(count):
    """Means over random families of quotas, one for each seed."""
    folder = pathlib.Path("target")
    found = []
    for seed in range(FAMILY_SEED, FAMILY_SEED + count):
        file = folder / f"family{seed}.json"
        subprocess.run([sys.executable, SHARED / "sim/gen_random.py", str(seed), FAMILY_SERVERS, file], check=True)
        head, row = [line.split() for line in run(file, "all", "holysheep", 1, "family").splitlines()]
        # The simulator's column names have spaces, such as "eff min".
        names = ("eff", "eff_min", "rej/ok", "rej_med", "rej_max", "jain", "jain_min", "fail%")
        found.append(dict(zip(names, map(float, row[1:]))))
        print(f"{seed}: " + "  ".join(f"{name} {value:.3f}" for name, value in found[-1].items()))
    mean = {name: sum(family[name] for family in found) / count for name in found[0]}
    return {("families", "holysheep"): mean}, list(checks(f"families {FAMILY_BOUNDS}"))


def main():
    if not (SHARED / "sim/run.sh").exists():
        print("skipped: the simulator isn't in ../shared")
        return 0
    if sys.argv[1:2] == ["families"]:
        found, wanted = families(int(sys.argv[2]))
    else:
        seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
        scenarios = SHARED / "scenarios/scenarios.json"
        wanted = list(checks(QUOTAS)) + list(checks(WORLDS)) + list(checks(OUTAGES))
        found = worlds("all", min(seeds, 3))
        found.update(worlds(CHANCE, CHANCE_SEEDS))
        found.update(tables(scenarios, "all", "holysheep", seeds))
        found.update(tables(scenarios, "+".join(NO_OVERHEAD), f"{BASELINE}+holysheep", seeds))
        found.update(tables(SHARED / "scenarios/worlds.json", "busy_out+busy_blip+busy_half", "holysheep", min(seeds, 3)))
        for scenario in NO_OVERHEAD:
            baseline = found[scenario, BASELINE]
            wanted += [(scenario, column, "<=", baseline[column] * MOST_LATENCY) for column in ("p50", "p99")]
    reached = failed = 0
    for scenario, column, sign, bound in wanted:
        value = found[scenario, "holysheep"][column]
        # A figure without a value is NaN, which compares false and counts as missed.
        good, floor = COMPARE[sign](value, bound), SHORT.get((scenario, column))
        reached += good
        verdict = ""
        if not good:
            kept = floor is not None and COMPARE[sign](value, floor)
            verdict, failed = ("SHORT", failed) if kept else ("MISSED", failed + 1)
        print(f"{scenario:<17}{column:<9}{value:>8.3f}  {sign} {bound:<8.4g}{verdict}".rstrip())
    print(f"{reached} of {len(wanted)} figures reached, {failed} missed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
