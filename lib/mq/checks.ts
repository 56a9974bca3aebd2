/**
 * Checks: asking the producer what became of a half message that nobody decided. One mechanism in three forms: a callback in a
 * process of the producer group, an HTTP call for halves with a check URL, a pull by services of any language.
 *
 * Whoever asks for due checks claims them; the claim counts the check and sets the time of the next, so a claim needs no lease:
 * when its holder dies, the next check goes to another. Where nobody asks, no check is used up.
 */

import { backoffMs, systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import { defineScript, outcomeOf, redisTimeMs, toAppError } from "../redis/index.ts";
import halfLua from "../redis/lua/mq-half.lua" with { type: "text" };
import claimLua from "../redis/lua/mq-half-claim.lua" with { type: "text" };
import { createService, type Service, whenAborted } from "../service.ts";
import {
  decideHalf,
  findHalf,
  type Half,
  type HalfContext,
  type HalfMessage,
  HTTP_CHECKS,
  type MessageReply,
  messageOf,
  parseHead,
} from "./half.ts";

/** `unknown`: not decided yet, ask again later. */
export type CheckAnswer = "commit" | "rollback" | "unknown";

/** A half that waits for an answer. `checks` counts this one. */
export interface Check extends Half {
  readonly message: HalfMessage;
}

/** What is thrown counts as no answer. */
export type CheckHandler = (check: Check) => CheckAnswer | Promise<CheckAnswer>;

/** One reply: this many checks, and no further one beyond so many bytes of messages. */
const CHECKS_MAX = 100;
const BYTES_MAX = 1024 * 1024;
const WAIT_MS_MAX = 20_000;
/** Checks in hand of one answering service: each may be an HTTP call of 10 s. */
const IN_HAND_MAX = 16;
/** A check that is due in a moment is not asked for in a busy loop. */
const SHORTEST_WAIT_MS = 10;

const FAILURE_BACKOFF = { firstMs: 100, maxMs: 2_000, jitter: 0.2 };

const claimScript = defineScript({
  name: "mqHalfClaim",
  lua: [halfLua, claimLua],
  keys: ["half", "due", "prepared"],
  args: ["limit", "bytesMax"],
  hasRest: true,
  decode: (reply) => reply as [id: string, head: string, message: MessageReply][],
});

/** Which partitions have a check that is due, and in how many ms there may be one elsewhere. One pipeline of small reads. */
async function lookForDue({ keys, redis, times }: HalfContext, group: string) {
  const { commands } = redis;
  const partitions = Array.from({ length: keys.partitions }, (_, partition) => partition);
  const [nowMs, firsts] = await Promise.all([
    redisTimeMs(commands),
    Promise.all(partitions.map((partition) => commands.zrange(keys.halfDue(partition, group), "0", "0", "WITHSCORES"))),
  ]);
  const waits = firsts.map(([, dueMs]) => (dueMs === undefined ? Number.POSITIVE_INFINITY : Number(dueMs) - nowMs));
  return { due: partitions.filter((partition) => waits[partition]! <= 0), waitMs: Math.min(times.lookMs, ...waits) };
}

/** The checks that are due for one group, and their claim. */
class DueChecks {
  readonly #context: HalfContext;
  readonly #group: string;
  /** How long nothing new can be due, as far as the last claim knew. */
  waitMs = 0;

  constructor(context: HalfContext, group: string) {
    this.#context = context;
    this.#group = group;
  }

  /** Claims up to `max` checks. Throws Redis errors; what it claimed before waits for its next check then. */
  async claim(max: number): Promise<Check[]> {
    const { keys, redis, times } = this.#context;
    const { due, waitMs } = await lookForDue(this.#context, this.#group);
    const checks: Check[] = [];
    // Begins anywhere: the first partitions must not take all the room.
    const first = Math.floor(Math.random() * due.length);
    for (let i = 0; i < due.length && checks.length < max; i++) {
      const partition = due[(first + i) % due.length]!;
      const claimed = await claimScript(redis.commands, {
        half: keys.half(partition),
        due: keys.halfDue(partition, this.#group),
        prepared: keys.halfIn(partition, "prepared"),
        limit: max - checks.length,
        bytesMax: Math.ceil(BYTES_MAX / due.length),
        restArgs: times.checkWaitsMs,
      });
      for (const [id, head, message] of claimed) {
        const half = parseHead(id, head);
        checks.push({ ...half, message: messageOf(half, partition, message) });
      }
    }
    this.waitMs = checks.length > 0 ? 0 : Math.max(waitMs, SHORTEST_WAIT_MS);
    return checks;
  }
}

/**
 * Waits up to `waitMs` for due checks and claims them: at most `max`. Nothing is claimed once `signal` has aborted. Throws AppError
 * INVALID with the field and its limit, and for Redis errors.
 */
export async function receiveChecks(
  context: HalfContext,
  producerGroup: string,
  { max, waitMs, signal }: ReceiveChecksOptions,
): Promise<Check[]> {
  assertProducerGroup(producerGroup);
  assertWithin("max", max, 1, CHECKS_MAX);
  assertWithin("waitMs", waitMs, 0, WAIT_MS_MAX);
  const due = new DueChecks(context, producerGroup);
  const deadline = performance.now() + waitMs;
  while (!signal?.aborted) {
    let checks: Check[];
    try {
      checks = await due.claim(max);
    } catch (error) {
      throw toAppError(error);
    }
    const leftMs = deadline - performance.now();
    if (checks.length > 0 || leftMs <= 0) return checks;
    await systemClock.sleep(Math.min(due.waitMs, leftMs), signal);
  }
  return [];
}

export interface ReceiveChecksOptions {
  /** 1..100. */
  readonly max: number;
  /** 0..20 000. */
  readonly waitMs: number;
  readonly signal?: AbortSignal;
}

/**
 * Does what a check was answered. `unknown` changes nothing and tells the state. Throws as decideHalf does: CONFLICT when it was
 * decided the other way.
 */
export async function answerCheck(context: HalfContext, id: string, answer: CheckAnswer): Promise<Half> {
  context.metrics.checks.inc({ answer });
  switch (answer) {
    case "commit":
      return decideHalf(context, id, "committed");
    case "rollback":
      return decideHalf(context, id, "rolled_back");
    case "unknown":
      return (await findHalf(context, id)).half;
  }
}

/** Answers the checks of a producer group as long as it runs: a live member of it. Throws INVALID for a name that is none. */
export function createAnswering(context: HalfContext, producerGroup: string, handle: CheckHandler): Service {
  assertProducerGroup(producerGroup);
  return createAnswerLoop(context, producerGroup, handle);
}

/** Answers the checks of all halves with a check URL by `call`, in any number of processes. */
export function createCheckCaller(context: HalfContext, call: CheckHandler): Service {
  return createAnswerLoop(context, HTTP_CHECKS, call);
}

function createAnswerLoop(context: HalfContext, group: string, handle: CheckHandler): Service {
  const loop = new AnswerLoop(context, group, handle);
  return createService(
    `checks/${group}`,
    () => loop.start(),
    (signal) => loop.stop(signal),
  );
}

class AnswerLoop {
  readonly #context: HalfContext;
  readonly #group: string;
  readonly #handle: CheckHandler;
  readonly #due: DueChecks;
  readonly #inHand = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  #onRoom: (() => void) | undefined;

  constructor(context: HalfContext, group: string, handle: CheckHandler) {
    this.#context = context;
    this.#group = group;
    this.#handle = handle;
    this.#due = new DueChecks(context, group);
  }

  async start(): Promise<void> {
    this.#running = this.#run();
  }

  /** Claims no more, and waits for the answers in hand until `signal` aborts: those get their next check elsewhere. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    this.#onRoom?.();
    await this.#running;
    await Promise.race([whenAborted(signal), Promise.all(this.#inHand)]);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (let failures = 0; !signal.aborted; ) {
      const room = IN_HAND_MAX - this.#inHand.size;
      if (room === 0) {
        await new Promise<void>((resolve) => {
          this.#onRoom = resolve;
        });
        continue;
      }
      try {
        for (const check of await this.#due.claim(room)) this.#take(check);
        failures = 0;
        if (this.#due.waitMs > 0) await systemClock.sleep(this.#due.waitMs, signal);
      } catch (error) {
        failures += 1;
        const level = outcomeOf(error) === "bug" ? "error" : failures === 1 ? "warn" : "debug";
        this.#context.log[level]({ producerGroup: this.#group, error }, "checks could not be claimed");
        await systemClock.sleep(backoffMs(failures, FAILURE_BACKOFF), signal);
      }
    }
  }

  #take(check: Check): void {
    const answering = this.#answer(check).finally(() => {
      this.#inHand.delete(answering);
      this.#onRoom?.();
    });
    this.#inHand.add(answering);
  }

  async #answer(check: Check): Promise<void> {
    const { log, metrics } = this.#context;
    const fields = { transaction: check.id, producerGroup: check.producerGroup, check: check.checks };
    let answer: CheckAnswer;
    try {
      answer = await this.#handle(check);
    } catch (error) {
      metrics.checks.inc({ answer: "none" });
      log.warn({ ...fields, error }, "a check was not answered");
      return;
    }
    try {
      await answerCheck(this.#context, check.id, answer);
    } catch (error) {
      // Someone else decided meanwhile, or the next check will ask again.
      const isDecided = error instanceof AppError && (error.code === "CONFLICT" || error.code === "NOT_FOUND");
      log[isDecided ? "debug" : "warn"]({ ...fields, answer, error }, "the answer to a check had no effect");
    }
  }
}

export function assertProducerGroup(name: string): void {
  if (!ID_PATTERN.test(name)) throw refused("producerGroup", "must be 1..64 of [A-Za-z0-9_.-]");
}

function assertWithin(path: string, value: number, min: number, max: number): void {
  const isWithin = Number.isInteger(value) && value >= min && value <= max;
  if (!isWithin) throw refused(path, `must be a whole number from ${min} to ${max}`);
}

function refused(path: string, message: string): AppError {
  return new AppError("INVALID", `${path} ${message}`, { issues: [{ path, message }] });
}
