/**
 * One trial of the queue's bench: a Redis of its own, a process that publishes and one that consumes, a warm-up, and then a fixed
 * number of messages from the first publication to the last one handled. CPU time of all three over exactly that time.
 */

import { childEnvironment } from "../../lib/config.ts";
import { TUNING } from "../../lib/redis/embedded.ts";
import type { ConsumeOrder, Kind, MqCommand, MqEvent, Order, PublishOrder } from "./mq-contract.ts";
import { type Fsync, startBenchRedis } from "./redis.ts";
import { startCpuWatch, totalSeconds } from "./usage.ts";

export interface TrialOptions {
  readonly kind: Kind;
  readonly fsync: Fsync;
  /** Published and handled before the measurement: code paths are compiled after some thousands of calls. */
  readonly warm: number;
  readonly messages: number;
  /** Where both processes write CPU profiles. */
  readonly profileFolder?: string | undefined;
  readonly publish?: Partial<Omit<PublishOrder, "role" | "kind" | "url">>;
  readonly consume?: Partial<Omit<ConsumeOrder, "role" | "kind" | "url" | "marks">>;
}

export interface Trial {
  readonly perSecond: number;
  /** CPU time per message, µs. Redis has one core: what it needs bounds every rate. */
  readonly redisMicros: number;
  readonly publisherMicros: number;
  readonly consumerMicros: number;
  /** Of the three together. */
  readonly micros: number;
}

const PUBLISH: Omit<PublishOrder, "kind" | "url"> = {
  role: "publish",
  batch: 500,
  outstanding: 2_000,
  isParsed: false,
  keys: 1_000,
};
const CONSUME: Omit<ConsumeOrder, "kind" | "url" | "marks"> = {
  role: "consume",
  groups: 1,
  mode: "concurrent",
  handler: "batch",
  isParsed: false,
  concurrency: 100,
  uncountedKey: "",
  doesFail: false,
};
/** A trial that takes longer has a fault. */
const PATIENCE_MS = 300_000;
const STOP_MS = 5_000;

/** All that is published is consumed at the same time. */
export async function endToEnd(options: TrialOptions): Promise<Trial> {
  return inLab(options, async ({ publisher, consumer, isWarm, isDone, measure }) => {
    await consumer.consume();
    await publisher.publish(options.warm);
    await consumer.reached(isWarm);
    return measure(async () => {
      await publisher.publish(options.messages);
      await consumer.reached(isDone);
    });
  });
}

/** Nobody consumes. */
export async function publishOnly(options: TrialOptions): Promise<Trial> {
  return inLab(options, async ({ publisher, measure }) => {
    await publisher.publish(options.warm);
    return measure(() => publisher.publish(options.messages));
  });
}

/** What was published before is consumed. */
export async function consumeOnly(options: TrialOptions): Promise<Trial> {
  return inLab(options, async ({ publisher, consumer, isWarm, isDone, measure }) => {
    await publisher.publish(options.warm + options.messages);
    await consumer.consume();
    await consumer.reached(isWarm);
    return measure(() => consumer.reached(isDone));
  });
}

interface Lab {
  readonly publisher: Process;
  readonly consumer: Process;
  /** What every group has seen after the warm-up, and after all. */
  readonly isWarm: number;
  readonly isDone: number;
  /** Runs the work and returns its rate and cost per message. */
  measure(work: () => Promise<void>): Promise<Trial>;
}

async function inLab(options: TrialOptions, run: (lab: Lab) => Promise<Trial>): Promise<Trial> {
  const { kind, fsync, warm, messages, profileFolder } = options;
  const redis = await startBenchRedis(fsync, { settings: TUNING });
  const { url } = redis;
  const publishing: PublishOrder = { ...PUBLISH, ...options.publish, kind, url };
  const uncounted = options.consume?.uncountedKey ? 1 / publishing.keys : 0;
  const [isWarm, isDone] = [warm, warm + messages].map((count) => Math.round(count * (1 - uncounted))) as [
    number,
    number,
  ];
  const consuming: ConsumeOrder = { ...CONSUME, ...options.consume, kind, url, marks: [isWarm, isDone] };
  const profiling = profileFolder === undefined ? {} : { BUN_OPTIONS: `--cpu-prof --cpu-prof-dir=${profileFolder}` };
  const publisher = startProcess(publishing, profiling);
  const consumer = startProcess(consuming, profiling);
  const patience = setTimeout(() => {
    for (const each of [publisher, consumer]) each.kill();
  }, PATIENCE_MS);
  try {
    await Promise.all([publisher.ready, consumer.ready]);
    return await run({
      publisher,
      consumer,
      isWarm,
      isDone,
      async measure(work) {
        const read = startCpuWatch({ redis: redis.pid, publisher: publisher.pid, consumer: consumer.pid });
        const startedMs = performance.now();
        await work();
        const seconds = (performance.now() - startedMs) / 1_000;
        const used = read();
        const micros = (name: string) => (totalSeconds(used[name]!) * 1e6) / (isDone - isWarm);
        return {
          perSecond: (isDone - isWarm) / seconds,
          redisMicros: micros("redis"),
          publisherMicros: micros("publisher"),
          consumerMicros: micros("consumer"),
          micros: micros("redis") + micros("publisher") + micros("consumer"),
        };
      },
    });
  } finally {
    clearTimeout(patience);
    await Promise.all([publisher.stop(), consumer.stop()]);
    await redis.stop();
  }
}

interface Process {
  readonly pid: number;
  readonly ready: Promise<void>;
  publish(messages: number): Promise<void>;
  consume(): Promise<void>;
  /** Resolves when every group has seen so many: one of the order's marks. */
  reached(mark: number): Promise<void>;
  kill(): void;
  /** Lets it end by itself, so that it writes its profile. */
  stop(): Promise<void>;
}

function startProcess(order: Order, env: Readonly<Record<string, string>>): Process {
  const waiting = new Map<string, PromiseWithResolvers<void>>();
  const at = (name: string) => {
    const found = waiting.get(name) ?? Promise.withResolvers<void>();
    // Nobody may be waiting when the process ends.
    found.promise.catch(() => undefined);
    waiting.set(name, found);
    return found;
  };
  const end = (reason: string) => {
    for (const { reject } of waiting.values()) reject(new Error(`the ${order.kind} ${order.role} process: ${reason}`));
  };
  const tell = (command: MqCommand) => child.send(command);
  const ready = at("ready").promise;
  const child = Bun.spawn([process.execPath, new URL("./mq-process.ts", import.meta.url).pathname], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    env: childEnvironment(env),
    ipc(event: MqEvent) {
      if (event.type === "failed") end(event.reason);
      else at(event.type === "reached" ? `reached ${event.mark}` : event.type).resolve();
    },
    onExit: () => end("ended early"),
  });
  tell({ type: "order", order });
  return {
    pid: child.pid,
    ready,
    publish(messages) {
      waiting.delete("published");
      tell({ type: "publish", messages });
      return at("published").promise;
    },
    async consume() {
      tell({ type: "consume" });
    },
    reached: (mark) => at(`reached ${mark}`).promise,
    kill: () => child.kill("SIGKILL"),
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.disconnect();
      const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await child.exited;
      clearTimeout(late);
    },
  };
}
