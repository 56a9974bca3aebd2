/**
 * The order of what is handed on, for any fate of the live frames: lost, doubled, late, out of order, with catch-ups between that fail or
 * come in pages. Whatever happens, each entry comes once, by seq, and in the end all have come.
 */

import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import fc from "fast-check";
import { ClientError } from "../../lib/client/error.ts";
import type { Cursor } from "../../lib/client/model.ts";
import { createTimelines } from "../../lib/client/timeline.ts";
import { entryOf } from "./scripted-gateway.ts";

const PAGE_ENTRIES = 4;

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

const step = fc.oneof(
  /** Entries are committed; `fate` says for each how often its frame comes. */
  { weight: 4, arbitrary: fc.record({ commit: fc.array(fc.constantFrom(0, 1, 1, 1, 2), { maxLength: 6 }) }) },
  /** Frames that are under way arrive, in an order of their own. */
  { weight: 4, arbitrary: fc.record({ deliver: fc.array(fc.nat(50), { maxLength: 8 }) }) },
  { weight: 2, arbitrary: fc.record({ waitMs: fc.integer({ min: 1, max: 1_500 }) }) },
  /** A reconnect: what was under way is lost. */
  { weight: 1, arbitrary: fc.constant({ reconnect: true as const }) },
  { weight: 1, arbitrary: fc.record({ failures: fc.integer({ min: 1, max: 2 }) }) },
);

/** Lets timers run, and what hangs on them. */
async function pass(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 100) {
    jest.advanceTimersByTime(Math.min(100, left));
    for (let turn = 0; turn < 8; turn++) await Promise.resolve();
  }
}

test("every entry once, by seq, whatever becomes of the frames", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 30 }), async (steps) => {
      let head = 0;
      let failures = 0;
      const underWay: number[] = [];
      const heard: number[] = [];
      const sync = async ([cursor]: readonly Cursor[]) => {
        // As of the question; the answer takes its time.
        const asOf = head;
        await new Promise((resolve) => setTimeout(resolve, 150));
        if (failures-- > 0) throw new ClientError("OVERLOADED", "busy");
        const { seq } = cursor!;
        const seqs = Array.from({ length: Math.min(PAGE_ENTRIES, asOf - seq) }, (_, i) => seq + 1 + i);
        const place = { conversation: "c", verdict: "resumed" as const, epoch: "e", head: asOf, read: 0, unread: 0 };
        const entries = seqs.map((one) => ({ ...entryOf(one), kind: "message" as const }));
        return { conversations: [{ ...place, entries, more: seq + seqs.length < asOf }] };
      };
      const timelines = createTimelines(sync, {
        onEntry: (_, entry) => heard.push(entry.seq),
        onResync: () => undefined,
        onHidden: () => undefined,
        onRead: () => undefined,
      });
      timelines.follow({ conversation: "c", epoch: "e", seq: 0 });
      for (const one of steps) {
        if ("commit" in one) {
          for (const times of one.commit) {
            head += 1;
            for (let i = 0; i < times; i++) underWay.push(head);
          }
        } else if ("deliver" in one) {
          for (const pick of one.deliver) {
            const [seq] = underWay.splice(pick % Math.max(1, underWay.length), 1);
            if (seq !== undefined) timelines.live("c", { ...entryOf(seq), kind: "message" as const });
          }
        } else if ("waitMs" in one) await pass(one.waitMs);
        else if ("failures" in one) failures = one.failures;
        else {
          underWay.length = 0;
          timelines.catchUpAll();
        }
        expect(heard).toEqual(Array.from({ length: heard.length }, (_, i) => i + 1));
      }
      timelines.catchUpAll();
      await pass(30_000);
      expect(heard).toEqual(Array.from({ length: head }, (_, i) => i + 1));
      timelines.end();
    }),
    { numRuns: 150 },
  );
});

test("who was out as of the question, and is in again before the answer, misses nothing", async () => {
  const heard: number[] = [];
  const asked: number[] = [];
  let head = 3;
  let isMember = false;
  const sync = async ([cursor]: readonly Cursor[]) => {
    asked.push(cursor!.seq);
    const isAnswered = isMember;
    await new Promise((resolve) => setTimeout(resolve, 150));
    const place = { conversation: "c", verdict: "resumed" as const, epoch: "e", head, read: 0, unread: 0, more: false };
    const entries = [4, 5].map((seq) => ({ ...entryOf(seq), kind: "message" as const }));
    return { conversations: isAnswered ? [{ ...place, entries }] : [] };
  };
  const timelines = createTimelines(sync, {
    onEntry: (_, entry) => heard.push(entry.seq),
    onResync: () => undefined,
    onHidden: () => undefined,
    onRead: () => undefined,
  });
  timelines.follow({ conversation: "c", epoch: "e", seq: head });
  timelines.catchUpAll();
  await pass(100);
  isMember = true;
  head = 5;
  for (const seq of [4, 5]) timelines.live("c", { ...entryOf(seq), kind: "message" as const });
  await pass(2_000);
  expect(heard).toEqual([4, 5]);
  isMember = false;
  timelines.catchUpAll();
  await pass(5_000);
  expect(timelines.cursors()).toEqual([]);
  expect(asked.length).toBeLessThan(6);
  timelines.end();
});
