#!/usr/bin/env python3
"""Checks the handler in the shared simulator against the figures it has to reach; prints the table, fails if one is missed."""

import operator
import pathlib
import subprocess
import sys

SEEDS = "5"
# The figures of ../shared/adaptive.md, section 4; fail% and rej/ok (a part, not per cent) as the simulator prints them.
MUST_REACH = """
tb_1x8          eff >= 0.97  rej/ok <= 0.025  fail% <= 0
tb_1x32_500     eff >= 0.97  rej/ok <= 0.015  fail% <= 0
gcra_1x8        eff >= 0.97  rej/ok <= 0.03   fail% <= 0
penal_1x8       eff >= 0.95  rej/ok <= 0.03
tb_10x4         eff >= 0.97  rej/ok <= 0.03   jain >= 0.87
fw_1x8          eff >= 0.95  rej/ok <= 0.045  fail% <= 0
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
# Here nothing may be slowed: no more than this part above a policy that does nothing as long as nothing fails.
UNHARMED, NO_POLICY, AS_WITHOUT = ("free_1x8", "open_half"), "full", 1.01

COMPARE = {">=": operator.ge, "<=": operator.le}


def simulate(shared, pick, policies):
    """The simulator's figures by scenario and policy, each a dict by column."""
    command = [shared / "sim/run.sh", shared / "scenarios/scenarios.json", pick, policies, SEEDS]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures, scenario, columns = {}, "", []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("## "):
            scenario = words[1].rstrip(":")
        elif words and words[0] == "policy":
            columns = words[1:]
        elif words:
            figures[scenario, words[0]] = dict(zip(columns, map(float, words[1:])))
    return figures


def main():
    shared = pathlib.Path("..") / "shared"
    if not (shared / "sim/run.sh").exists():
        print("skipped: the simulator isn't in ../shared")
        return 0
    found = simulate(shared, "all", "holysheep")
    found.update(simulate(shared, "+".join(UNHARMED), f"{NO_POLICY}+holysheep"))
    checks = []
    for row in MUST_REACH.strip().splitlines():
        scenario, *rest = row.split()
        for column, sign, bound in zip(*[iter(rest)] * 3):
            checks.append((scenario, column, sign, float(bound)))
    for scenario in UNHARMED:
        without = found[scenario, NO_POLICY]
        checks += [(scenario, column, "<=", without[column] * AS_WITHOUT) for column in ("p50", "p99")]
    missed = 0
    for scenario, column, sign, bound in checks:
        value = found[scenario, "holysheep"][column]
        # NaN, a figure that isn't there, compares false and so is missed.
        reached = COMPARE[sign](value, bound)
        missed += not reached
        print(f"{scenario:<16}{column:<8}{value:>8.3f}  {sign} {bound:<8.4g}{'' if reached else 'MISSED'}".rstrip())
    print(f"{len(checks) - missed} of {len(checks)} figures reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
