/**
 * What runs broadcasts: walks the audience step by step, no faster than is asked for, and publishes one command per recipient for logic.
 * Any number of processes may; a lease makes it one at a time (lib/mq/errand.ts).
 *
 * A step publishes, then notes how far it came. One that dies in between is done again by the next runner, with no effect: a recipient's
 * mark is committed with his command (broadcast-publish.ts). So the walk may meet a user twice, too, and of all
 * users it does when he is seen meanwhile (users.ts); it must only miss nobody.
 *
 * The chat comes first. A broadcast begins at a quarter of its rate and grows up to it as long as logic answers at once; when commands
 * begin to wait, logic has as much to do as it can, so it goes back by a third, again and again. What is out is bounded in any case.
 */

import type { Clock } from "../clock.ts";
import { newId } from "../id.ts";
import { claimErrand, type ErrandState, noteErrand, runErrands, spendRate } from "../mq/index.ts";
import type { Log } from "../observability/index.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import { publishBroadcast } from "./broadcast-publish.ts";
import { BROADCAST_LIFE_MS, broadcastPlace, countsOf, forgetAudience, type ShownAudience } from "./broadcasts.ts";
import { createUserIndex, type SeenUser } from "./users.ts";

/** Recipients between two notes of the record: some 1 ms of Redis, in scripts of one partition each. */
const CHUNK_MAX = 250;
/** Looks of one step: empty partitions, mostly. */
const LOOKS_MAX = 200;
/** A step takes some ms; one that died is taken over after this. */
const LEASE_MS = 5_000;
/** What logic has answered is looked up so often, for it lies in all partitions. */
const COUNT_MS = 250;
/** A runner that comes late makes up for no more than this of its pace: a burst is what the chat would feel. */
const BURST_MS = 200;
/** Commands that may be out at all: so many, or as many as the rate asks for in half a second. Without it they pile up while logic is away. */
const WINDOW_MIN = 100;
const WINDOW_MS = 500;
/** Logic answers within some 10 ms. When more is out than is published in this time, commands wait. */
const PROMPT_MS = 100;
/** So many are no sign of it: as they come with one step. */
const PROMPT_MIN = 10;
/** Pace as a share of the rate: to begin with, and at least, for also a busy chat must let it come to an end. */
const PACE_FIRST = 0.25;
const PACE_MIN = 0.1;
/** With each look at what is out: full pace after 4 s, a tenth of it after 1.5 s. */
const PACE_UP = 0.05;
const PACE_DOWN = 0.67;
/** Members of a conversation per look, until its list is complete. */
const GATHER_COUNT = 500;
/** What was published and not counted for so long is not waited for any more: it lies among the dead letters. */
const ANSWERS_WITHIN_MS = 30 * 60_000;

export interface RunnerParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * One step of every broadcast that runs: what its rate allows since its last one. To be called many times a second, by whichever
 * processes. Resolves to how many run: paused ones can wait. Throws the first Redis error after it has tried all; again goes on from
 * where each stood.
 */
export async function runBroadcasts(parts: RunnerParts): Promise<number> {
  let running = 0;
  await runErrands(
    parts.redis,
    parts.keys.openBroadcasts(),
    async (id) => {
      if (await new Step(parts, id).run()) running += 1;
    },
    (broadcast, error) => parts.log.debug({ broadcast, error }, "a broadcast's step failed, the next one goes on"),
  );
  return running;
}

/** As the hash keeps it. */
interface BroadcastRecord {
  readonly by: string;
  readonly type: string;
  /** JSON. */
  readonly body: string;
  readonly audience: ShownAudience;
  readonly list: string;
  readonly perSecond: number;
  isGathered: boolean;
  startedMs: number;
  spentMs: number;
  /** Commands that were published and not answered: as of `countedMs`, and what was published since. */
  out: number;
  countedMs: number;
  /** Recipients per second that the chat bears, at most `perSecond`. */
  pace: number;
  /** Of all users: the partition that is walked. */
  partition: number;
  /** Of all users `<ms seen> <user>` in it, of a list the user, that it has come to; "" at the beginning. */
  position: string;
  /** 0 until the end is reached. */
  walkedMs: number;
}

class Step {
  readonly #parts: RunnerParts;
  readonly #id: string;
  readonly #runner: string;
  #record!: BroadcastRecord;

  constructor(parts: RunnerParts, id: string) {
    this.#parts = parts;
    this.#id = id;
    this.#runner = newId(parts.clock.now());
  }

  /** Resolves to whether it runs, here or elsewhere. */
  async run(): Promise<boolean> {
    const { redis, keys } = this.#parts;
    const claim = await claimErrand(redis, broadcastPlace(keys, this.#id), this.#runner, LEASE_MS);
    if (claim === "held" || claim === "ended") return claim === "held";
    this.#record = toRecord(claim.fields);
    this.#record.startedMs ||= claim.nowMs;
    if (!this.#record.isGathered && !(await this.#gather())) return false;
    if (claim.nowMs >= this.#record.countedMs + COUNT_MS) await this.#countOut(claim.nowMs);
    const { walkedMs, out, countedMs } = this.#record;
    if (walkedMs === 0) await this.#walk(claim.nowMs);
    else if ((out === 0 && countedMs > walkedMs) || claim.nowMs > walkedMs + ANSWERS_WITHIN_MS) {
      await this.#end();
      return false;
    }
    return this.#note("running", 0);
  }

  async #countOut(nowMs: number): Promise<void> {
    const { total = 0, ...answers } = await countsOf(this.#parts.redis, this.#parts.keys, this.#id);
    const record = this.#record;
    const { perSecond, pace } = record;
    record.out = total - Object.values(answers).reduce((sum, count) => sum + count, 0);
    record.countedMs = nowMs;
    const isPrompt = record.out <= Math.max(PROMPT_MIN, (pace * PROMPT_MS) / 1_000);
    record.pace = isPrompt
      ? Math.min(perSecond, pace + perSecond * PACE_UP)
      : Math.max(perSecond * PACE_MIN, pace * PACE_DOWN);
  }

  async #walk(nowMs: number): Promise<void> {
    const record = this.#record;
    const { count, spentMs } = spendRate({ perSecond: record.pace, spentMs: record.spentMs }, nowMs, BURST_MS);
    record.spentMs = spentMs;
    let left = Math.min(count, Math.max(WINDOW_MIN, (record.perSecond * WINDOW_MS) / 1_000) - record.out);
    for (let looks = 0; left > 0 && looks < LOOKS_MAX; looks++) {
      const { users, isEnd } = await this.#next(Math.min(left, CHUNK_MAX));
      const published = await publishBroadcast(this.#parts, this.#id, record, users);
      record.out += published;
      left -= published;
      if (isEnd) record.walkedMs = nowMs;
      if (isEnd || !(await this.#note("running"))) return;
    }
  }

  /** The next users, and whether they are the last. The record's position is behind them then. */
  async #next(wanted: number): Promise<{ users: readonly string[]; isEnd: boolean }> {
    const { redis, keys } = this.#parts;
    const record = this.#record;
    if (!("all" in record.audience)) {
      const from = record.position === "" ? "-" : `(${record.position}`;
      const users = await redis.zrangebylex(keys.broadcastList(record.list), from, "+", "LIMIT", 0, wanted);
      record.position = users.at(-1) ?? record.position;
      return { users, isEnd: users.length < wanted };
    }
    const page = await createUserIndex(redis, keys).page(record.partition, toPlace(record.position), wanted);
    const last = page.at(-1);
    if (last) record.position = `${last.seenMs} ${last.user}`;
    const isEndOfPartition = page.length < wanted;
    if (isEndOfPartition) [record.partition, record.position] = [record.partition + 1, ""];
    return { users: page.map(({ user }) => user), isEnd: isEndOfPartition && record.partition >= keys.partitions };
  }

  /**
   * Lists the members of the conversation: those who are members from the first look to the last are all in it. Not from where another
   * runner stood: a cursor of HSCAN is of no use once Redis was restarted. Resolves to whether it may go on.
   */
  async #gather(): Promise<boolean> {
    const { redis, keys } = this.#parts;
    const { audience, list } = this.#record;
    const members = "conversation" in audience ? keys.members(audience.conversation) : "";
    let cursor = "0";
    do {
      const [next, rows] = await redis.hscan(members, cursor, "COUNT", GATHER_COUNT);
      const users = rows.filter((field, i) => i % 2 === 0 && field !== "#");
      if (users.length > 0) {
        await redis.zadd(keys.broadcastList(list), ...users.flatMap((user) => ["0", user]));
        await redis.pexpire(keys.broadcastList(list), BROADCAST_LIFE_MS);
      }
      if (!(await this.#note("running"))) return false;
      cursor = next;
    } while (cursor !== "0");
    this.#record.isGathered = true;
    return true;
  }

  async #end(): Promise<void> {
    await forgetAudience(this.#parts.redis, this.#parts.keys, this.#id);
    await this.#note("done");
  }

  /** Whether it is still this runner's, and to go on. */
  async #note(state: ErrandState, leaseMs = LEASE_MS): Promise<boolean> {
    const { isGathered, startedMs, spentMs, out, countedMs, pace, partition, position, walkedMs } = this.#record;
    const fields = [
      ...["gathered", isGathered ? 1 : 0, "started", startedMs, "spent", spentMs],
      ...[
        "out",
        out,
        "counted",
        countedMs,
        "pace",
        pace,
        "partition",
        partition,
        "position",
        position,
        "walked",
        walkedMs,
      ],
    ];
    const { redis, keys } = this.#parts;
    const note = { runner: this.#runner, state, fields, leaseMs, keepMs: BROADCAST_LIFE_MS };
    return (await noteErrand(redis, broadcastPlace(keys, this.#id), note)) === "ok";
  }
}

function toPlace(position: string): SeenUser | undefined {
  if (position === "") return undefined;
  const [seenMs, user] = position.split(" ");
  return { seenMs: Number(seenMs), user: user! };
}

function toRecord(of: Readonly<Record<string, string>>): BroadcastRecord {
  const perSecond = Number(of.per_second);
  return {
    by: of.by!,
    type: of.type!,
    body: of.body!,
    audience: JSON.parse(of.audience!) as ShownAudience,
    list: of.list!,
    perSecond,
    isGathered: of.gathered === "1",
    startedMs: Number(of.started ?? 0),
    spentMs: Number(of.spent),
    out: Number(of.out ?? 0),
    countedMs: Number(of.counted ?? 0),
    pace: Number(of.pace ?? perSecond * PACE_FIRST),
    partition: Number(of.partition),
    position: of.position!,
    walkedMs: Number(of.walked ?? 0),
  };
}
