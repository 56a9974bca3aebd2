/** A publisher process of the campaign on delayed messages: publishes at a rate, cancels and moves some, writes down what it was told. */

import { AppError } from "../../lib/errors.ts";
import { type ConnectedQueue, connectQueue } from "../../lib/mq/index.ts";
import { type DelayedLine, delayedNumbers, fateOf, type PublisherEvent, type PublisherOrder } from "./delayed-plan.ts";
import { type EvidenceWriter, openEvidence } from "./evidence.ts";
import { createRandom, type Random } from "./random.ts";

/** Redis is killed, too, and is back within a second or two. */
const REPEAT_MS = 50;
const REPEATS_MAX = 600;
const BATCH_MS = 20;

const tell = (event: PublisherEvent) => process.send?.(event);

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

interface Parts {
  readonly queue: ConnectedQueue;
  readonly evidence: EvidenceWriter<DelayedLine>;
  readonly random: Random;
  readonly spreadMs: number;
}

async function publish({ queue, evidence, random, spreadMs }: Parts, numbers: readonly number[]): Promise<void> {
  const inputs = numbers.map((n) => {
    const deliverAt = Date.now() + random.between(0, spreadMs);
    evidence.write({ e: "asked", n, due: deliverAt });
    return { type: "number", key: `k${n % 97}`, data: { n }, deliverAt, dedupId: `n${n}` };
  });
  const results = await untilKnown(() => queue.publishMany(delayedNumbers, inputs));
  for (const [i, { id }] of results.entries()) evidence.write({ e: "kept", n: numbers[i]!, id });
  await Promise.all(results.map(({ id }, i) => meddle({ queue, evidence, random, spreadMs }, numbers[i]!, id)));
}

/** Cancels or moves the message some time later, if that is its fate. */
async function meddle({ queue, evidence, random, spreadMs }: Parts, n: number, id: string): Promise<void> {
  const fate = fateOf(random);
  if (fate === "none") return;
  await Bun.sleep(random.between(0, spreadMs / 2));
  if (fate === "cancel") {
    evidence.write({ e: "cancelled", n, result: await untilKnown(() => queue.delayed.cancel(id)) });
    return;
  }
  const to = Date.now() + random.between(0, spreadMs);
  evidence.write({ e: "moving", n, to });
  evidence.write({ e: "moved", n, result: await untilKnown(() => queue.delayed.move(id, to)) });
}

async function run({ name, redisUrl, evidencePath, seed, from, to, perSecond, spreadMs }: PublisherOrder) {
  const queue = await connectQueue({ url: redisUrl, member: name });
  const evidence = openEvidence<DelayedLine>(evidencePath);
  const parts: Parts = { queue, evidence, random: createRandom(seed), spreadMs };
  const startedMs = performance.now();
  const publishing: Promise<void>[] = [];
  for (let next = from; next <= to; ) {
    const wanted = from + Math.ceil(((performance.now() - startedMs) / 1_000) * perSecond);
    const count = Math.min(to + 1, wanted) - next;
    if (count > 0) {
      publishing.push(
        publish(
          parts,
          Array.from({ length: count }, (_, i) => next + i),
        ).then(() => void tell({ type: "published", count })),
      );
      next += count;
    }
    await Bun.sleep(BATCH_MS);
  }
  await Promise.all(publishing);
  evidence.close();
  await queue.close();
  tell({ type: "finished" });
  process.disconnect?.();
}

process.once("message", (order: PublisherOrder) => void run(order));
