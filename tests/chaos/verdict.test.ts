/** The judge must see what it is there for: each fault planted alone, and counted as what it is. */

import { expect, test } from "bun:test";
import type { EvidenceLine } from "../../scripts/chaos/evidence.ts";
import { compare, isClean, judge, type SeenMessage, type Verdict } from "../../scripts/chaos/verdict.ts";

const PLAN: EvidenceLine = { e: "plan", seed: 1, conversations: [{ id: "c", members: ["ann", "bob"] }] };

/** Ann's messages 1..count, acknowledged with seq 1..count. */
function healthy(count: number) {
  const evidence: EvidenceLine[] = [PLAN];
  const timeline: SeenMessage[] = [];
  for (let n = 1; n <= count; n++) {
    const id = `ann-c-${n}`;
    evidence.push({ e: "attempt", id, conversation: "c", user: "ann", n, text: id, t: n });
    evidence.push({ e: "ok", id, seq: n, message: `M${n}`, duplicate: false, t: n });
    timeline.push({ seq: n, id: `M${n}`, from: "ann", text: id });
  }
  return { evidence, timeline };
}

const verdictOf = (evidence: readonly EvidenceLine[], timeline: readonly SeenMessage[]) =>
  judge(evidence, new Map([["c", timeline]]));

const expectOnly = (verdict: Verdict, faults: Partial<Verdict>) => {
  const found = Object.fromEntries(Object.entries(verdict).filter(([, count]) => count > 0));
  expect(found).toEqual(faults);
};

test("a run without faults is clean", () => {
  const { evidence, timeline } = healthy(5);
  const { verdict, outcomes, messages } = verdictOf(evidence, timeline);
  expect(isClean(verdict)).toBe(true);
  expect(outcomes).toMatchObject({ attempts: 5, ok: 5, unsettled: 0 });
  expect(messages).toBe(5);
});

test("an acknowledged message that is gone is lost", () => {
  const { evidence, timeline } = healthy(3);
  expectOnly(verdictOf(evidence, timeline.slice(0, 2)).verdict, { lost: 1 });
});

test("an acknowledged message at another seq or under another id is lost", () => {
  const { evidence, timeline } = healthy(1);
  expectOnly(verdictOf(evidence, [{ ...timeline[0]!, id: "other" }]).verdict, { lost: 1 });
});

test("an unacknowledged message may be there or not", () => {
  const { evidence, timeline } = healthy(2);
  const attempt: EvidenceLine = { e: "attempt", id: "x", conversation: "c", user: "ann", n: 3, text: "x", t: 3 };
  const tried: EvidenceLine[] = [...evidence, attempt, { e: "unknown", id: "x", reason: "no reply", t: 4 }];
  const absent = verdictOf(tried, timeline);
  expect(isClean(absent.verdict)).toBe(true);
  expect(absent.outcomes).toMatchObject({ unknown: 1, unsettled: 1 });
  const present = verdictOf(tried, [...timeline, { seq: 3, id: "M3", from: "ann", text: "x" }]);
  expect(isClean(present.verdict)).toBe(true);
  expect(present.outcomes.unsettled).toBe(0);
});

test("gaps and repeated seqs are counted", () => {
  const { evidence, timeline } = healthy(3);
  expectOnly(verdictOf(evidence, [timeline[0]!, timeline[2]!]).verdict, { gap: 1, lost: 1 });
  expectOnly(verdictOf(evidence, [timeline[0]!, { ...timeline[1]!, seq: 1 }, timeline[2]!]).verdict, {
    doubledSeq: 1,
    gap: 1,
    lost: 1,
  });
});

test("one clientId twice in the timeline is doubled", () => {
  const { evidence, timeline } = healthy(2);
  const again = { ...timeline[1]!, seq: 3, id: "M9" };
  expectOnly(verdictOf(evidence, [...timeline, again]).verdict, { doubledClientId: 1, lost: 1 });
});

test("what nobody attempted, or another sent, is unexpected", () => {
  const { evidence, timeline } = healthy(1);
  const stranger = { seq: 2, id: "M2", from: "ann", text: "never sent" };
  expectOnly(verdictOf(evidence, [...timeline, stranger]).verdict, { unexpected: 1 });
  expectOnly(verdictOf(evidence, [{ ...timeline[0]!, from: "bob" }]).verdict, { unexpected: 1, lost: 1 });
});

test("a sender's messages in another order are reordered", () => {
  const evidence: EvidenceLine[] = [PLAN];
  for (const n of [1, 2]) {
    evidence.push({ e: "attempt", id: `${n}`, conversation: "c", user: "ann", n, text: `${n}`, t: n });
  }
  const timeline = [2, 1].map((n, i) => ({ seq: i + 1, id: `M${n}`, from: "ann", text: `${n}` }));
  expectOnly(verdictOf(evidence, timeline).verdict, { reordered: 1 });
});

test("a reader that saw something else diverges", () => {
  const { evidence, timeline } = healthy(2);
  const judgement = verdictOf(evidence, timeline);
  compare(judgement, "archive", new Map([["c", timeline]]), new Map([["c", timeline.slice(0, 1)]]));
  expectOnly(judgement.verdict, { divergent: 1 });
  expect(judgement.examples).toEqual(["divergent: archive differs in c: 1 messages instead of 2"]);
});

test("a notification backwards on one connection is disorder", () => {
  const { evidence, timeline } = healthy(1);
  const backwards: EvidenceLine = { e: "disorder", user: "bob", conversation: "c", seq: 1, after: 1, t: 1 };
  expectOnly(verdictOf([...evidence, backwards], timeline).verdict, { disorder: 1 });
});
