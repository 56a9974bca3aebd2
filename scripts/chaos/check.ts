/**
 * The checker process: reads the evidence and, over new connections, what became of it: each conversation's history through the
 * public API by two of its members, the archive's file, and the files of the three example services. Judges and answers once.
 */

import { readEvidence } from "./evidence.ts";
import { readHistories } from "./readers.ts";
import { checkLedgers, countEffects, readArchive } from "./stores.ts";
import { compare, isClean, type Judgement, judge, planOf } from "./verdict.ts";

export interface CheckOrder {
  readonly evidencePath: string;
  readonly gateways: readonly string[];
  readonly serviceKey: string;
  readonly dataDir: string;
}

export interface CheckResult extends Judgement {
  readonly isClean: boolean;
  /** Between the last acknowledgement and the moment that archive and services had all messages. */
  readonly caughtUpMs: number;
}

/** The groups go on as long as they get nearer; this long without any progress, and what they lack is lacking. */
const STALL_MS = 30_000;
const POLL_MS = 100;

async function check(order: CheckOrder): Promise<CheckResult> {
  const startedMs = performance.now();
  const evidence = readEvidence(order.evidencePath);
  const plan = planOf(evidence);
  const { serviceKey, dataDir } = order;
  const timelines = await readHistories({ url: order.gateways[0]!, serviceKey, reader: 0 }, plan);
  const judgement = judge(evidence, timelines);
  await untilCaughtUp(dataDir, judgement.messages);
  const caughtUpMs = performance.now() - startedMs;
  const others = await readHistories({ url: order.gateways.at(-1)!, serviceKey, reader: 1 }, plan);
  compare(judgement, "the second reader", timelines, others);
  compare(judgement, "the archive", timelines, readArchive(dataDir));
  checkLedgers(judgement, dataDir, timelines);
  return {
    ...judgement,
    caughtUpMs,
    isClean: isClean(judgement.verdict) && judgement.outcomes.unsettled === 0 && judgement.outcomes.ok > 0,
  };
}

/** Returns also when they stall: the comparison then says what is missing. */
async function untilCaughtUp(dataDir: string, messages: number): Promise<void> {
  let best = -1;
  let bestMs = performance.now();
  for (;;) {
    const counts = countEffects(dataDir);
    if (counts.every((count) => count >= messages)) return;
    const sum = counts.reduce((total, count) => total + count, 0);
    if (sum > best) {
      best = sum;
      bestMs = performance.now();
    } else if (performance.now() - bestMs > STALL_MS) return;
    await Bun.sleep(POLL_MS);
  }
}

process.once("message", async (order: CheckOrder) => {
  process.send?.(await check(order));
  process.disconnect?.();
});
