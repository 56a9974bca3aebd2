/** The campaign on the queue in small, on real processes, and its judge: each fault planted alone is found under its name. */

import { expect, test } from "bun:test";
import { runMqCampaign } from "../../scripts/chaos/mq-campaign.ts";
import { GROUPS, type HandlerLine, isHopeless, type ProducerLine } from "../../scripts/chaos/mq-plan.ts";
import { judgeMq, type MqFindings, type MqVerdict } from "../../scripts/chaos/mq-verdict.ts";
import { range } from "../support/queue.ts";

test("whoever dies or sleeps: nothing lost, nothing made up, every key in order", async () => {
  const lines: string[] = [];
  const seed = Math.floor(Math.random() * 1_000_000);
  const print = (line: string) => void lines.push(line);
  // For 5 s: there is time for strikes although their conductor may stand still for a part of it.
  const result = await runMqCampaign({ messages: 1_500, keys: 30, seed, keep: false, perSecond: 300, print });
  if (!result.isClean) throw new Error(lines.join("\n"));
  expect(result.figures.published).toBe(1_500);
  expect(result.kills + result.pauses).toBeGreaterThan(1);
});

const COUNT = 60;
const HOPELESS = range(1, COUNT).filter(isHopeless);
const GOOD = range(1, COUNT).filter((n) => !isHopeless(n));
const [PLAIN, OTHER] = GOOD as [number, number];

interface Mutable extends MqFindings {
  readonly produced: ProducerLine[];
  readonly handled: HandlerLine[];
  readonly entries: { key: string; n: number }[];
  readonly dead: Map<string, { key: string; n: number }[]>;
  readonly effects: Map<string, { written: Map<string, number>; entries: { key: string; n: number }[] }>;
}

function healthy(): Mutable {
  return {
    produced: [
      ["attempt", "k", 1, COUNT],
      ["ok", "k", 1, COUNT],
    ],
    handled: GROUPS.filter(({ hasEffect }) => !hasEffect).flatMap(({ group }) =>
      range(1, COUNT).map((n): HandlerLine => [isHopeless(n) ? "buried" : "done", group, "k", n, 7]),
    ),
    entries: range(1, COUNT).map((n) => ({ key: "k", n })),
    dead: new Map(GROUPS.map(({ group }) => [group, HOPELESS.map((n) => ({ key: "k", n }))])),
    effects: new Map(
      GROUPS.filter(({ hasEffect }) => hasEffect).map(({ group }) => [
        group,
        {
          written: new Map(GOOD.map((n) => [`k/${n}`, 1])),
          entries: GOOD.map((n) => ({ key: "k", n })),
        },
      ]),
    ),
  };
}

const ofSingle = ([, group]: HandlerLine) => group === "single";
const FAULTS: readonly (readonly [what: string, plant: (findings: Mutable) => void, expected: Partial<MqVerdict>])[] = [
  ["none", () => undefined, {}],
  ["a message handled again", ({ handled }) => handled.push(["done", "single", "k", COUNT, 7]), {}],
  ["a late result of a holder that lost its lease", ({ handled }) => handled.push(["done", "single", "k", 3, 6]), {}],
  [
    "one that a group never finished",
    (f) => f.handled.splice(f.handled.findIndex(ofSingle), 1),
    { inverted: 1, lost: 1 },
  ],
  ["a dead letter that is gone", ({ dead }) => dead.get("shared")!.pop(), { lost: 1 }],
  ["a dead letter twice", ({ dead }) => dead.get("batch")!.push(...dead.get("batch")!.slice(0, 1)), { doubled: 1 }],
  ["one buried without a reason", ({ dead }) => dead.get("batch")!.push({ key: "k", n: PLAIN }), { unexpected: 1 }],
  ["an entry twice", ({ entries }) => entries.push({ key: "k", n: COUNT }), { doubled: 1 }],
  ["an entry of an earlier number", ({ entries }) => entries.push({ key: "k", n: OTHER }), { misplaced: 1 }],
  [
    "an entry that nobody published",
    ({ entries }) => entries.push({ key: "x", n: 1 }),
    { unexpected: 1, lost: GROUPS.length },
  ],
  [
    "one that nobody published, handled",
    ({ handled }) => handled.push(["done", "shared", "x", 1, 7]),
    { unexpected: 1 },
  ],
  ["an effect written twice", ({ effects }) => effects.get("ledger")!.written.set("k/1", 2), { effects: 1 }],
  [
    "an effect published twice",
    ({ effects }) => effects.get("accounts")!.entries.push({ key: "k", n: 1 }),
    { effects: 1 },
  ],
  ["an effect written alone", ({ effects }) => effects.get("ledger")!.entries.pop(), { effects: 1, lost: 1 }],
  ["an effect out of order", ({ effects }) => effects.get("ledger")!.entries.reverse(), { inverted: GOOD.length - 1 }],
  ["an entry that is gone", ({ entries }) => entries.pop(), { lost: 1 }],
];

test.each(FAULTS)("the judge sees %s", (_, plant, expected) => {
  const findings = healthy();
  plant(findings);
  const { verdict } = judgeMq(findings);
  expect(Object.fromEntries(Object.entries(verdict).filter(([, count]) => count > 0))).toEqual(expected);
});
