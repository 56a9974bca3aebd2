/**
 * The checker process: reads the evidence and, over new connections, what became of it: each conversation's history through the
 * public API by two of its members, the archive's file, and the files of the three example services. Judges and answers once.
 */

import { readEvidence } from "./evidence.ts";
import { readHistories } from "./readers.ts";
import { compare, isClean, type Judgement, judge, planOf } from "./verdict.ts";

export interface CheckOrder {
  readonly evidencePath: string;
  readonly gateways: readonly string[];
  readonly serviceKey: string;
  readonly dataDir: string;
}

export interface CheckResult extends Judgement {
  readonly isClean: boolean;
}

async function check(order: CheckOrder): Promise<CheckResult> {
  const evidence = readEvidence(order.evidencePath);
  const plan = planOf(evidence);
  const { serviceKey } = order;
  const timelines = await readHistories({ url: order.gateways[0]!, serviceKey, reader: 0 }, plan);
  const judgement = judge(evidence, timelines);
  const others = await readHistories({ url: order.gateways.at(-1)!, serviceKey, reader: 1 }, plan);
  compare(judgement, "the second reader", timelines, others);
  return { ...judgement, isClean: isClean(judgement.verdict) && judgement.outcomes.unsettled === 0 };
}

process.once("message", async (order: CheckOrder) => {
  process.send?.(await check(order));
  process.disconnect?.();
});
