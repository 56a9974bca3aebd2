/** A process of the campaign on the queue, to be killed or paused at any moment: a producer, or a member of every group. */

import { existsSync } from "node:fs";
import { AppError } from "../../lib/errors.ts";
import {
  Bury,
  type ConnectedQueue,
  type ConsumeOptions,
  connectQueue,
  type DeliveryContext,
  type Message,
  type Topic,
} from "../../lib/mq/index.ts";
import { type EvidenceWriter, openEvidence, readEvidence } from "./evidence.ts";
import {
  effectTopic,
  failuresOf,
  GROUPS,
  type HandlerLine,
  isHopeless,
  LEASE_MS,
  type MqEvent,
  type MqOrder,
  numbered,
  PARTITIONS,
  PREFIX,
  type ProducerLine,
} from "./mq-plan.ts";

type Numbered = { readonly n: number };
type Order<R extends MqOrder["role"]> = Extract<MqOrder, { role: R }>;

/** Of a key in one call. */
const RUN_MAX = 5;
const REPEAT_MS = 100;
/** Often enough that handlers have something in hand when they are struck. */
const SLOW_SHARE = 8;
const SLOW_MS = 3;

const tell = (event: MqEvent) => process.send?.(event);

/** Each key's messages in order, from where an earlier life came to: what it had no answer for it publishes again, under the same ids. */
async function produce(queue: ConnectedQueue, order: Order<"producer">): Promise<void> {
  const published = new Map(order.keys.map((key) => [key, 0]));
  if (existsSync(order.evidencePath)) {
    for (const [e, key, , to] of readEvidence<ProducerLine>(order.evidencePath)) if (e === "ok") published.set(key, to);
  }
  const evidence = openEvidence<ProducerLine>(order.evidencePath);
  for (;;) {
    const startedMs = performance.now();
    const runs = order.keys.flatMap((key) => {
      const from = published.get(key)! + 1;
      const to = Math.min(order.messagesPerKey, from + RUN_MAX - 1);
      return to < from ? [] : [{ key, from, to }];
    });
    if (runs.length === 0) break;
    for (const { key, from, to } of runs) evidence.write(["attempt", key, from, to]);
    const inputs = runs.flatMap(({ key, from, to }) =>
      Array.from({ length: to - from + 1 }, (_, i) => ({
        ...{ type: "numbered", key, dedupId: `${key}/${from + i}`, data: { n: from + i } },
      })),
    );
    await untilKnown(() => queue.publishMany(numbered, inputs));
    for (const { key, from, to } of runs) {
      evidence.write(["ok", key, from, to]);
      published.set(key, to);
    }
    await Bun.sleep(Math.max(0, (inputs.length / order.perSecond) * 1_000 - (performance.now() - startedMs)));
  }
  tell({ type: "finished" });
}

async function untilKnown(call: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await call();
      return;
    } catch (error) {
      if (!(error instanceof AppError && error.retryable)) throw error;
      await Bun.sleep(REPEAT_MS);
    }
  }
}

async function consume(queue: ConnectedQueue, { evidencePath }: Order<"consumer">): Promise<void> {
  const evidence = openEvidence<HandlerLine>(evidencePath);
  for (const planned of GROUPS) {
    const handle = planned.hasEffect ? createTransfer(planned.group) : createHandler(planned.group, evidence);
    const base = { group: planned.group, mode: planned.mode, leaseMs: LEASE_MS, backoff: [20], batchMax: 50 };
    const options: ConsumeOptions<Numbered> = planned.isBatch
      ? {
          ...base,
          async handleBatch(messages, context) {
            for (const message of messages) await handle(message, context);
          },
        }
      : { ...base, handle };
    await queue.consume(numbered, options).start();
  }
  tell({ type: "ready" });
}

type Handle = (message: Message<Numbered>, context: DeliveryContext) => Promise<void>;

function createHandler(group: string, evidence: EvidenceWriter<HandlerLine>): Handle {
  return async (message, { token }) => {
    const { key, data } = message;
    await failAsPlanned(message);
    evidence.write([isHopeless(data.n) ? "buried" : "done", group, key, data.n, token]);
    buryAsPlanned(message);
  };
}

/** Leaves its evidence in Redis alone, with the ack. */
function createTransfer(group: string): Handle {
  const topic = effectTopic(group) as Topic<unknown>;
  return async (message, { commit }) => {
    const { key, data } = message;
    await failAsPlanned(message);
    buryAsPlanned(message);
    await commit({
      writes: [["HINCRBY", group, `${key}/${data.n}`, 1]],
      publish: [{ topic, input: { type: "effect", key, data } }],
    });
  };
}

async function failAsPlanned({ data: { n }, attempt }: Message<Numbered>): Promise<void> {
  if (n % SLOW_SHARE === 0) await Bun.sleep(SLOW_MS);
  if (attempt <= failuresOf(n)) throw new Error("as planned");
}

function buryAsPlanned({ data: { n } }: Message<Numbered>): void {
  if (isHopeless(n)) throw new Bury("as planned");
}

process.once("message", async (order: MqOrder) => {
  const queue = await connectQueue({
    ...{ url: order.redisUrl, prefix: PREFIX, partitions: PARTITIONS, member: order.name },
  });
  await (order.role === "producer" ? produce(queue, order) : consume(queue, order));
});
process.on("disconnect", () => process.exit(0));
