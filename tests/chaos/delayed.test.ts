/** The campaign on delayed messages in small, on real processes, and its judge: each fault planted alone is found under its name. */

import { expect, test } from "bun:test";
import { runDelayedCampaign } from "../../scripts/chaos/delayed-campaign.ts";
import type { DelayedLine } from "../../scripts/chaos/delayed-plan.ts";
import { type DelayedVerdict, type FoundEntry, judgeDelayed } from "../../scripts/chaos/delayed-verdict.ts";

test("whoever dies, and whatever a clock says: none early, none lost, each once", async () => {
  const lines: string[] = [];
  const seed = Math.floor(Math.random() * 1_000_000);
  const print = (line: string) => void lines.push(line);
  const result = await runDelayedCampaign({ count: 200, seed, keep: false, perSecond: 200, spreadMs: 2_000, print });
  if (!result.isClean) throw new Error(lines.join("\n"));
  expect(result.figures.kept).toBe(200);
});

interface Findings {
  readonly evidence: DelayedLine[];
  readonly entries: FoundEntry[];
}

/** 1 is sent, 2 cancelled, 3 moved and sent, 4 was moved too late. */
function healthy(): Findings {
  const kept = (n: number): DelayedLine[] => [
    { e: "asked", n, due: 1_000 },
    { e: "kept", n, id: `id-${n}` },
  ];
  return {
    evidence: [
      ...[1, 2, 3, 4].flatMap(kept),
      { e: "cancelled", n: 2, result: "ok" },
      { e: "moving", n: 3, to: 2_000 },
      { e: "moved", n: 3, result: "ok" },
      { e: "moving", n: 4, to: 2_000 },
      { e: "moved", n: 4, result: "already_fired" },
    ],
    entries: [
      { n: 1, ms: 1_010 },
      { n: 3, ms: 2_000 },
      { n: 4, ms: 1_001 },
    ],
  };
}

const FAULTS: readonly (readonly [what: string, plant: (f: Findings) => unknown, expected: Partial<DelayedVerdict>])[] =
  [
    ["none", () => undefined, {}],
    ["one before its time", ({ entries }) => (entries[0] = { n: 1, ms: 999 }), { early: 1 }],
    ["one before the time that it was moved to", ({ entries }) => (entries[1] = { n: 3, ms: 1_999 }), { early: 1 }],
    ["one that never came", ({ entries }) => entries.pop(), { lost: 1 }],
    ["one that came twice", ({ entries }) => entries.push({ n: 1, ms: 1_011 }), { doubled: 1 }],
    ["one that came though it was cancelled", ({ entries }) => entries.push({ n: 2, ms: 1_001 }), { undead: 1 }],
    ["one that nobody asked for", ({ entries }) => entries.push({ n: 9, ms: 1_001 }), { unexpected: 1 }],
    [
      "one that is said not to exist",
      (f) => f.evidence.push({ e: "cancelled", n: 1, result: "not_found" }),
      { denied: 1 },
    ],
    ["one that nobody knows of", (f) => f.evidence.push({ e: "asked", n: 5, due: 1 }), { unsettled: 1 }],
    ["a move without an answer", (f) => f.evidence.push({ e: "moving", n: 1, to: 5 }), { unsettled: 1 }],
  ];

test.each(FAULTS)("the judge sees %s", (_, plant, expected) => {
  const findings = healthy();
  plant(findings);
  const { verdict } = judgeDelayed(findings.evidence, findings.entries);
  expect(Object.fromEntries(Object.entries(verdict).filter(([, count]) => count > 0))).toEqual(expected);
});

test("lateness is counted from the due time that held", () => {
  const { evidence, entries } = healthy();
  expect(judgeDelayed(evidence, entries).figures).toMatchObject({
    ...{ kept: 4, sent: 3, cancelled: 1, moved: 1 },
    lateMs: { p50: 1, max: 10 },
  });
});
