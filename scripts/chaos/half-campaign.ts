/**
 * The campaign on half messages: producers that die between prepare and answer, members of the producer group that die over checks,
 * a Redis that is killed in the middle, and decisions that race. What the dead left, the living settle; what nobody knows expires.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { openQueue, type Queue } from "../../lib/mq/index.ts";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createKeys, openRedis } from "../../lib/redis/index.ts";
import { readEvidence } from "./evidence.ts";
import { type HalfLine, PARTITIONS, type ProcessEvent, type ProcessOrder, TIMES } from "./half-plan.ts";
import { type HalfJudgement, judgeHalves } from "./half-verdict.ts";
import { startPrivateRedis } from "./private-redis.ts";
import { createRandom, type Random } from "./random.ts";

export interface HalfCampaignOptions {
  /** Halves to prepare, at least. */
  readonly count: number;
  readonly seed: number;
  /** Keeps the data dir and the evidence, and says where. */
  readonly keep: boolean;
  readonly print: (line: string) => void;
}

export interface HalfResult extends HalfJudgement {
  readonly seed: number;
  readonly producersKilled: number;
  readonly membersKilled: number;
  readonly redisKilled: number;
  readonly seconds: number;
  readonly isClean: boolean;
}

/** Orders of one producer process, which dies at their end or before. */
const ORDERS = 100;
const PRODUCERS = 4;
const MEMBERS = 3;
/** One producer in so many is killed at a random moment, not when it has come to its end. */
const EARLY_SHARE = 3;
const EARLY_MS_MAX = 400;
const MEMBER_LIFE_MS_MAX = 3_000;
const EXPIRE_EVERY_MS = 250;
/** After the last producer: the budget, and time for a loaded machine. */
const SETTLE_MS = 60_000;
const POLL_MS = 50;
const PREFIX = "chaos";

type Ground = Pick<ProcessOrder, "redisUrl" | "prefix" | "evidencePath" | "databasePath">;

/** Throws when it does not get through: nothing may need a human. */
export async function runHalfCampaign({ count, seed, keep, print }: HalfCampaignOptions): Promise<HalfResult> {
  const startedMs = performance.now();
  const folder = mkdtempSync(join(tmpdir(), "skein-chaos-half-"));
  print(`half: ${count} halves, seed ${seed}${keep ? `, in ${folder}` : ""}`);
  const server = await startPrivateRedis(folder);
  const redis = await openRedis(server.url, "conductor", silentLog);
  const keys = createKeys(PREFIX, PARTITIONS);
  const queue = openQueue({
    ...{ redis, keys, clock: systemClock, log: silentLog, metrics: createMetrics(), member: "conductor" },
    halfTimes: TIMES,
  });
  const evidencePath = join(folder, "evidence.jsonl");
  const ground: Ground = { redisUrl: server.url, prefix: PREFIX, evidencePath, databasePath: join(folder, "shop.db") };
  const crowd = new Crowd(ground, createRandom(seed));
  const expiring = keepExpiring(queue);
  try {
    crowd.startMembers();
    const redisDied = crowd.whenPrepared(count / 2).then(() => server.kill());
    await crowd.produce(count);
    await redisDied;
    print(`prepared: ${crowd.prepared}; ${crowd.producersKilled} producers killed, Redis once`);
    await untilSettled(queue);
    await crowd.stop();
    const judgement = await judgeHalves(readEvidence<HalfLine>(evidencePath), {
      queue,
      keys,
      commands: redis.commands,
    });
    const isClean = Object.values(judgement.verdict).every((found) => found === 0) && judgement.figures.halves >= count;
    const seconds = (performance.now() - startedMs) / 1_000;
    const { producersKilled, membersKilled } = crowd;
    const result = { ...judgement, seed, producersKilled, membersKilled, redisKilled: 1, seconds, isClean };
    printResult(result, print);
    return result;
  } finally {
    await crowd.stop();
    await expiring.stop();
    await redis.close();
    await server.stop();
    if (!keep) rmSync(folder, { recursive: true, force: true });
  }
}

/** The shop's processes, and their deaths. */
class Crowd {
  prepared = 0;
  producersKilled = 0;
  membersKilled = 0;
  readonly #ground: Ground;
  readonly #random: Random;
  readonly #members = new Set<Promise<void>>();
  readonly #waiting: { readonly count: number; readonly resolve: () => void }[] = [];
  #started = 0;
  #isStopping = false;
  readonly #running = new Set<ReturnType<typeof Bun.spawn>>();

  constructor(ground: Ground, random: Random) {
    this.#ground = ground;
    this.#random = random;
  }

  whenPrepared(count: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ count, resolve }));
  }

  /** Lets producers live and die until so many halves are prepared. */
  async produce(count: number): Promise<void> {
    let next = 1;
    const lane = async () => {
      while (this.prepared < count) {
        const from = next;
        next += ORDERS;
        await this.#liveAsProducer(from, from + ORDERS - 1);
      }
    };
    await Promise.all(Array.from({ length: PRODUCERS }, lane));
  }

  startMembers(): void {
    for (let i = 0; i < MEMBERS; i++) this.#members.add(this.#liveAsMembers());
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const child of this.#running) child.kill("SIGKILL");
    await Promise.all(this.#members);
  }

  async #liveAsProducer(from: number, to: number): Promise<void> {
    const diesEarly = this.#random.between(1, EARLY_SHARE) === 1;
    const early = Promise.withResolvers<void>();
    const limbo = Promise.withResolvers<void>();
    const child = this.#spawn({ role: "producer", from, to }, (event) => {
      if (event.type === "limbo") limbo.resolve();
      if (event.type !== "prepared") return;
      this.prepared += 1;
      for (const { count, resolve } of this.#waiting) if (this.prepared >= count) resolve();
      early.resolve();
    });
    const failed = child.exited.then((code) => {
      throw new Error(`a producer ended by itself, with ${code}`);
    });
    const end = diesEarly ? early.promise.then(() => Bun.sleep(this.#random.next() * EARLY_MS_MAX)) : limbo.promise;
    await Promise.race([end, failed]);
    failed.catch(() => undefined);
    await this.#kill(child);
    this.producersKilled += 1;
  }

  async #liveAsMembers(): Promise<void> {
    while (!this.#isStopping) {
      const ready = Promise.withResolvers<void>();
      const child = this.#spawn({ role: "member", from: 0, to: 0 }, () => ready.resolve());
      const life = ready.promise.then(() => Bun.sleep(this.#random.next() * MEMBER_LIFE_MS_MAX));
      await Promise.race([life, child.exited]);
      await this.#kill(child);
      if (!this.#isStopping) this.membersKilled += 1;
    }
  }

  #spawn(part: Pick<ProcessOrder, "role" | "from" | "to">, onEvent: (event: ProcessEvent) => void) {
    this.#started += 1;
    const name = `${part.role}-${this.#started}`;
    const child = Bun.spawn([process.execPath, new URL("./half-process.ts", import.meta.url).pathname], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      ipc: onEvent,
    });
    this.#running.add(child);
    const order: ProcessOrder = { ...this.#ground, ...part, name, seed: this.#random.between(0, 2 ** 31 - 1) };
    child.send(order);
    return child;
  }

  async #kill(child: ReturnType<typeof Bun.spawn>): Promise<void> {
    child.kill("SIGKILL");
    await child.exited;
    this.#running.delete(child);
  }
}

/** The scheduler's chore. */
function keepExpiring(queue: Queue) {
  const stopping = new AbortController();
  const running = (async () => {
    while (!stopping.signal.aborted) {
      // While Redis is away there is nothing to expire.
      await queue.transactions.expire().catch(() => undefined);
      await systemClock.sleep(EXPIRE_EVERY_MS, stopping.signal);
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

async function untilSettled(queue: Queue): Promise<void> {
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    const { halves } = await queue.transactions.list({ state: "prepared" });
    if (halves.length === 0) return;
    if (performance.now() > deadline) return;
    await Bun.sleep(POLL_MS);
  }
}

function printResult({ figures, verdict, examples, seconds, ...killed }: HalfResult, print: (line: string) => void) {
  const { halves, states, checks, entries } = figures;
  const ends = Object.entries(states).map(([state, count]) => `${count} ${state.replace("_", " ")}`);
  print(`ends:     of ${halves} halves ${ends.join(", ")}; ${entries} messages in the topic`);
  print(
    `killed:   ${killed.producersKilled} producers, ${killed.membersKilled} members; ${checks} checks were answered`,
  );
  print(
    `verdict:  ${Object.entries(verdict)
      .map(([kind, count]) => `${kind} ${count}`)
      .join(", ")}`,
  );
  for (const example of examples) print(`          ${example}`);
  print(`time:     ${seconds.toFixed(1)} s, ${Math.round(halves / seconds)} halves a second with all the deaths`);
}
