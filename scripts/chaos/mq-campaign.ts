/**
 * The campaign on the queue alone: producers and members of groups of both kinds on a Redis of their own, killed with -9 and paused
 * past their leases at random while handlers fail as planned, until all is published. Then everybody lives, the groups catch up, and
 * what they left is judged from outside.
 */

import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConnectedQueue, connectQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createKeys, type Keys, openRedis, type RedisClient } from "../../lib/redis/index.ts";
import { readEvidence } from "./evidence.ts";
import {
  CONSUMERS,
  effectTopic,
  GROUPS,
  type HandlerLine,
  keyOf,
  LEASE_MS,
  type MqEvent,
  type MqOrder,
  numbered,
  PARTITIONS,
  PREFIX,
  PRODUCERS,
  type ProducerLine,
} from "./mq-plan.ts";
import { type Effects, judgeMq, type MqFindings, type MqJudgement, type Numbered } from "./mq-verdict.ts";
import { startPrivateRedis } from "./private-redis.ts";
import { createRandom, type Random } from "./random.ts";

export interface MqCampaignOptions {
  readonly messages: number;
  readonly keys: number;
  readonly seed: number;
  /** Keeps the data dir and the evidence, and says where. */
  readonly keep: boolean;
  /** Published per second by all producers together: slow enough that there is time for faults. */
  readonly perSecond?: number;
  readonly print: (line: string) => void;
}

export interface MqCampaignResult extends MqJudgement {
  readonly seed: number;
  readonly kills: number;
  readonly pauses: number;
  /** Between the end of publishing and the moment that every group had finished everything. */
  readonly caughtUpMs: number;
  readonly seconds: number;
  readonly isClean: boolean;
}

const PER_SECOND = 2_500;
/** After a strike the groups must get on by so much evidence, some 500 messages, and then comes the next one at any moment. */
const PROGRESS_BYTES = 20_000;
/** No progress for so long is a failure: nothing may need a human. */
const RECOVERY_MS = 60_000;
const STRIKE_MS = [0, 500] as const;
const DEAD_MS = [20, 400] as const;
const BEYOND_LEASE_MS = [200, 1_500] as const;
/** One strike in so many is a pause; the others kill. */
const PAUSE_SHARE = 3;
/** The groups go on as long as they get nearer; so long without progress, and what they lack is lacking. */
const STALL_MS = 30_000;
const POLL_MS = 50;
const PAGE = 1_000;

/** Throws when it does not get through: nothing may need a human. */
export async function runMqCampaign(options: MqCampaignOptions): Promise<MqCampaignResult> {
  const { messages, keys, seed, keep, print, perSecond = PER_SECOND } = options;
  const startedMs = performance.now();
  const folder = mkdtempSync(join(tmpdir(), "skein-chaos-mq-"));
  print(`mq: ${messages} messages of ${keys} keys, seed ${seed}${keep ? `, in ${folder}` : ""}`);
  const redis = await startPrivateRedis(folder);
  const crowd = new Crowd(redis.url, folder, createRandom(seed));
  try {
    await using queue = await connectQueue({
      ...{ url: redis.url, prefix: PREFIX, partitions: PARTITIONS, member: "judge" },
    });
    await crowd.start({ keys, messagesPerKey: Math.ceil(messages / keys), perSecond: perSecond / PRODUCERS });
    await crowd.strikeUntilPublished();
    print(`published: ${crowd.kills} processes killed, ${crowd.pauses} paused past their lease`);
    const publishedMs = performance.now();
    await untilCaughtUp(queue);
    const caughtUpMs = performance.now() - publishedMs;
    await crowd.stop();
    const judgement = judgeMq(await find(redis.url, folder));
    const isClean = Object.values(judgement.verdict).every((count) => count === 0);
    const seconds = (performance.now() - startedMs) / 1_000;
    const { kills, pauses } = crowd;
    const result = { ...judgement, seed, kills, pauses, caughtUpMs, seconds, isClean };
    printResult(result, print);
    return result;
  } finally {
    await crowd.stop();
    await redis.stop();
    if (!keep) rmSync(folder, { recursive: true, force: true });
  }
}

interface Living {
  child: ReturnType<typeof Bun.spawn>;
  /** Killed and not back yet, or paused. */
  isDown: boolean;
  isFinished: boolean;
}

/** The processes of the campaign, and their deaths. */
class Crowd {
  kills = 0;
  pauses = 0;
  readonly #redisUrl: string;
  readonly #folder: string;
  readonly #random: Random;
  readonly #living = new Map<string, Living>();
  readonly #returns = new Set<Promise<void>>();
  readonly #published = Promise.withResolvers<void>();
  #isStopping = false;

  constructor(redisUrl: string, folder: string, random: Random) {
    this.#redisUrl = redisUrl;
    this.#folder = folder;
    this.#random = random;
  }

  /** Resolves when every member has started. */
  async start(load: {
    readonly keys: number;
    readonly messagesPerKey: number;
    readonly perSecond: number;
  }): Promise<void> {
    const evidencePath = handledPath(this.#folder);
    const ready = Array.from({ length: CONSUMERS }, (_, i) =>
      this.#live({ role: "consumer", name: `consumer-${i}`, redisUrl: this.#redisUrl, evidencePath }),
    );
    await Promise.all(ready);
    const keys = Array.from({ length: load.keys }, (_, i) => keyOf(i));
    for (let i = 0; i < PRODUCERS; i++) {
      void this.#live({
        ...{ role: "producer", name: `producer-${i}`, redisUrl: this.#redisUrl },
        evidencePath: producedPath(this.#folder, i),
        keys: keys.filter((_, index) => index % PRODUCERS === i),
        messagesPerKey: load.messagesPerKey,
        perSecond: load.perSecond,
      });
    }
  }

  /**
   * One strike after the other, until the last message is published; then waits until everybody lives. While one is down the others
   * must get on, and be struck on: processes that die faster than they start would show nothing but the pace of the machine.
   */
  async strikeUntilPublished(): Promise<void> {
    let isPublished = false;
    const published = this.#published.promise.then(() => {
      isPublished = true;
    });
    while (!isPublished) {
      const seen = this.#evidenceBytes();
      await Promise.race([published, Bun.sleep(this.#random.between(...STRIKE_MS))]);
      const standing = [...this.#living].filter(([, { isDown, isFinished }]) => !isDown && !isFinished);
      if (isPublished || standing.length === 0) continue;
      const [name, living] = this.#random.pick(standing);
      const strike = this.#random.between(1, PAUSE_SHARE) === 1 ? this.#pause(living) : this.#kill(name, living);
      const back = strike.finally(() => this.#returns.delete(back));
      this.#returns.add(back);
      await Promise.race([published, this.#untilProgress(seen, name)]);
    }
    await Promise.all(this.#returns);
  }

  async #untilProgress(seen: number, struck: string): Promise<void> {
    const startedMs = performance.now();
    while (this.#evidenceBytes() < seen + PROGRESS_BYTES && !this.#isStopping) {
      if (performance.now() - startedMs > RECOVERY_MS) throw new Error(`no progress after ${struck} was struck`);
      await Bun.sleep(POLL_MS);
    }
  }

  #evidenceBytes(): number {
    const path = handledPath(this.#folder);
    return existsSync(path) ? statSync(path).size : 0;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const { child } of this.#living.values()) child.kill("SIGKILL");
    await Promise.all([...this.#living.values()].map(({ child }) => child.exited));
  }

  readonly #orders = new Map<string, MqOrder>();

  /** Resolves when it says that it is ready or has died: a producer says nothing. */
  #live(order: MqOrder): Promise<void> {
    const ready = Promise.withResolvers<void>();
    const child = Bun.spawn([process.execPath, new URL("./mq-process.ts", import.meta.url).pathname], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      ipc: (event: MqEvent) => {
        if (event.type === "ready") ready.resolve();
        else this.#finished(order.name);
      },
      onExit: (_, code) => {
        // Whoever ends by himself has a fault, which he has printed.
        if (code !== null && code !== 0 && !this.#isStopping)
          this.#published.reject(new Error(`${order.name}: ${code}`));
      },
    });
    child.send(order);
    this.#orders.set(order.name, order);
    this.#living.set(order.name, { child, isDown: false, isFinished: false });
    return Promise.race([ready.promise, child.exited.then(() => undefined)]);
  }

  #finished(name: string): void {
    this.#living.get(name)!.isFinished = true;
    const producers = [...this.#living].filter(([other]) => this.#orders.get(other)!.role === "producer");
    if (producers.every(([, { isFinished }]) => isFinished)) this.#published.resolve();
  }

  async #kill(name: string, living: Living): Promise<void> {
    this.kills += 1;
    living.isDown = true;
    living.child.kill("SIGKILL");
    await living.child.exited;
    await Bun.sleep(this.#random.between(...DEAD_MS));
    const order = this.#orders.get(name)!;
    const ready = this.#live(order);
    if (order.role === "consumer") await ready;
  }

  async #pause(living: Living): Promise<void> {
    this.pauses += 1;
    living.isDown = true;
    living.child.kill("SIGSTOP");
    await Bun.sleep(LEASE_MS + this.#random.between(...BEYOND_LEASE_MS));
    living.child.kill("SIGCONT");
    living.isDown = false;
  }
}

/** Returns also when they stall: the judge then says what is missing. */
async function untilCaughtUp(queue: ConnectedQueue): Promise<void> {
  let best = Number.POSITIVE_INFINITY;
  let bestMs = performance.now();
  for (;;) {
    const { groups } = await queue.describe(numbered);
    const lag = groups.reduce((sum, group) => sum + group.lag, 0);
    if (lag === 0 && groups.length === GROUPS.length) return;
    if (lag < best) [best, bestMs] = [lag, performance.now()];
    else if (performance.now() - bestMs > STALL_MS) return;
    await Bun.sleep(POLL_MS);
  }
}

const handledPath = (folder: string) => join(folder, "handled.jsonl");
const producedPath = (folder: string, producer: number) => join(folder, `produced-${producer}.jsonl`);

/** The evidence, and what lies in Redis. */
async function find(redisUrl: string, folder: string): Promise<MqFindings> {
  const redis = await openRedis(redisUrl, "judge", silentLog);
  const keys = createKeys(PREFIX, PARTITIONS);
  const page = async (stream: string) => {
    const found: string[][] = [];
    for (let from = "-"; ; ) {
      const entries = await redis.commands.xrange(stream, from, "+", "COUNT", PAGE);
      found.push(...entries.map(([, fields]) => fields));
      if (entries.length < PAGE) return found;
      from = `(${entries.at(-1)![0]}`;
    }
  };
  try {
    const entries: Numbered[] = [];
    const dead = new Map<string, Numbered[]>(GROUPS.map(({ group }) => [group, []]));
    for (let partition = 0; partition < PARTITIONS; partition++) {
      for (const [header, data] of await page(keys.topic(numbered.name, partition))) {
        entries.push({ key: keyIn(header!), n: numberIn(data!) });
      }
      for (const { group } of GROUPS) {
        for (const fields of await page(keys.deadLetters(numbered.name, partition, group))) {
          const field = (name: string) => fields[fields.indexOf(name) + 1]!;
          dead.get(group)!.push({ key: field("k"), n: numberIn(field("d")) });
        }
      }
    }
    const effects = new Map<string, Effects>();
    for (const { group, hasEffect } of GROUPS) {
      if (hasEffect) effects.set(group, await effectsOf(redis.commands, keys, group, page));
    }
    const produced = Array.from({ length: PRODUCERS }, (_, i) => producedPath(folder, i)).filter(existsSync);
    return {
      produced: produced.flatMap((path) => readEvidence<ProducerLine>(path)),
      handled: readEvidence<HandlerLine>(handledPath(folder)),
      entries,
      dead,
      effects,
    };
  } finally {
    await redis.close();
  }
}

async function effectsOf(
  commands: RedisClient,
  keys: Keys,
  group: string,
  page: (stream: string) => Promise<string[][]>,
): Promise<Effects> {
  const written = new Map<string, number>();
  const entries: Numbered[] = [];
  for (let partition = 0; partition < PARTITIONS; partition++) {
    const counts = await commands.hgetall(keys.own(partition, group));
    for (const [name, count] of Object.entries(counts)) written.set(name, Number(count));
    for (const [header, data] of await page(keys.topic(effectTopic(group).name, partition))) {
      entries.push({ key: keyIn(header!), n: numberIn(data!) });
    }
  }
  return { written, entries };
}

/** `<id> <type> <key> …`: these messages have no attributes before it. */
const keyIn = (header: string): string => header.split(" ")[2]!;
const numberIn = (data: string): number => (JSON.parse(data) as { n: number }).n;

function printResult(result: MqCampaignResult, print: (line: string) => void): void {
  const { figures, verdict, examples, caughtUpMs, seconds } = result;
  const { published, handled, repeated, refused, buried, planned } = figures;
  print(`handled:  ${published} messages by ${GROUPS.length} groups: ${handled} in all, ${repeated} times one again`);
  print(`          ${buried} buried; ${planned} failures were planned; ${refused} late results refused by their token`);
  print(`          all groups had finished ${Math.round(caughtUpMs)} ms after the last publication`);
  const counts = Object.entries(verdict).map(([kind, count]) => `${kind} ${count}`);
  print(`verdict:  ${counts.join(", ")}`);
  for (const example of examples) print(`          ${example}`);
  print(`time:     ${seconds.toFixed(1)} s`);
}
