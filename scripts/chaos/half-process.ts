/** A process of the shop, to be killed at any moment: a producer of half messages, or a member that answers checks. */

import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { type Check, type CheckAnswer, defineTopic, type Half, openQueue, type Queue } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { inParallel } from "../load/api.ts";
import { type EvidenceWriter, openEvidence } from "./evidence.ts";
import {
  type Decision,
  fateOf,
  type HalfLine,
  openShop,
  PARTITIONS,
  PRODUCER_GROUP,
  type ProcessEvent,
  type ProcessOrder,
  type Shop,
  TIMES,
  TOPIC,
} from "./half-plan.ts";
import { createRandom, type Random } from "./random.ts";

const orders = defineTopic(TOPIC, { schema: v.strictObject({ n: v.number() }) });
/** So many checks a member waits for a local transaction that it does not know; then it says that there is none. */
const PATIENCE_CHECKS = 3;
/** Redis is killed, too, and is back within a second. */
const REPEAT_MS = 100;
const REPEATS_MAX = 300;

const tell = (event: ProcessEvent) => process.send?.(event);

interface Parts {
  readonly queue: Queue;
  readonly shop: Shop;
  readonly evidence: EvidenceWriter<HalfLine>;
}

/** Repeats what has no outcome, or an unknown one, until it has. */
async function untilKnown<T>(call: () => Promise<T>): Promise<T> {
  for (let repeats = 0; ; repeats++) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof AppError && error.retryable) || repeats === REPEATS_MAX) throw error;
      await Bun.sleep(REPEAT_MS);
    }
  }
}

async function decide({ queue, evidence }: Parts, id: string, decision: Decision): Promise<void> {
  evidence.write({ e: "asked", id, decision, t: Date.now() });
  const state = await untilKnown(() => queue.transactions[decision](id)).then(
    (half: Half) => half.state,
    (error: AppError) => {
      if (error.code !== "CONFLICT") throw error;
      return error.state as Half["state"];
    },
  );
  evidence.write({ e: "told", id, state, t: Date.now() });
}

async function placeOrder(parts: Parts, n: number, random: Random): Promise<void> {
  const { queue, shop, evidence } = parts;
  const fate = fateOf(random);
  const input = { type: "order.placed", key: `customer-${n % 97}`, data: { n } };
  // Under an unknown outcome it is prepared anew: the other one is asked for, and nobody knows it.
  const { id } = await untilKnown(() => queue.transactions.prepare(orders, input, { producerGroup: PRODUCER_GROUP }));
  evidence.write({ e: "prepared", n, id, fate, t: Date.now() });
  tell({ type: "prepared" });
  switch (fate) {
    case "unknown":
      shop.decide(id, "unknown");
      return;
    case "dies undecided":
      return;
    case "dies decided":
      shop.decide(id, random.next() < 0.5 ? "commit" : "rollback");
      return;
  }
  // A member that was asked first has answered for it.
  if (!shop.decide(id, fate === "rollback" ? "rollback" : "commit")) return;
  const decisions: Record<typeof fate, readonly Decision[]> = {
    commit: ["commit"],
    commits: ["commit", "commit", "commit", "commit"],
    rollback: ["rollback"],
    race: ["commit", "rollback", "commit", "rollback"],
  };
  await Promise.all(decisions[fate].map((decision) => decide(parts, id, decision)));
}

async function answer(parts: Parts, { id, checks }: Check): Promise<CheckAnswer> {
  const { shop, evidence } = parts;
  evidence.write({ e: "check", id, check: checks, t: Date.now() });
  // The shop that has nothing of it after a while forbids it: a producer that was only slow finds that.
  if (checks >= PATIENCE_CHECKS && shop.outcomeOf(id) === undefined) shop.decide(id, "rollback");
  const outcome = shop.outcomeOf(id) ?? "unknown";
  if (outcome !== "unknown") evidence.write({ e: "asked", id, decision: outcome, t: Date.now() });
  return outcome;
}

async function run(order: ProcessOrder): Promise<void> {
  const redis = await openRedis(order.redisUrl, order.name, silentLog);
  const queue = openQueue({
    ...{ redis, keys: createKeys(order.prefix, PARTITIONS), clock: systemClock, log: silentLog },
    ...{ metrics: createMetrics(), member: order.name, halfTimes: TIMES },
  });
  const parts: Parts = {
    queue,
    shop: openShop(order.databasePath),
    evidence: openEvidence<HalfLine>(order.evidencePath),
  };
  tell({ type: "ready" });
  if (order.role === "member") {
    await queue.transactions.answerChecks(PRODUCER_GROUP, (check) => answer(parts, check)).start();
    return;
  }
  const random = createRandom(order.seed);
  const numbers = Array.from({ length: order.to - order.from + 1 }, (_, i) => order.from + i);
  await inParallel(numbers, (n) => placeOrder(parts, n, random));
  tell({ type: "limbo" });
}

process.once("message", (order: ProcessOrder) => void run(order));
