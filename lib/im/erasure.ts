/**
 * Erasure of one user. It is an errand (lib/mq/errand.ts): a record says how far it is, and passes (erase-user.ts) go on, whoever dies,
 * until one has found nothing.
 *
 *   begin ─► he counts as erased: no token of his is taken, no route written, nobody takes him in
 *     └─► im.user.erased is told ─► pass ─► pass ─► … one that found nothing ─► done; 31 days later he is forgotten altogether
 *
 * The record lies under a keyed digest of his id, so who reads Redis cannot tell whom it is of, nor try ids. While there are passes it
 * names him, for they must know whom to look for; then it holds counts, and neither his id nor his pseudonym, and last of all Redis
 * begins its append-only file anew.
 *
 * im.user.erased names him, for other services have to erase what they took from us. It is one of the messages that name him: it goes when
 * every group has finished it, and until then the erasure waits.
 */

import { createHmac } from "node:crypto";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { claimErrand, noteErrand, runErrands } from "../mq/index.ts";
import { beginLogsAnew, defineScript, type Keys, type RedisClient, toAppError } from "../redis/index.ts";
import startLua from "../redis/lua/im-erasure-start.lua" with { type: "text" };
import { ERASED_KINDS, type ErasedCounts, type EraseParts, eraseUser, type Pass } from "./erase-user.ts";

/** One pass looks at every key: more of them at once would only be later, each. */
const RUNNING_MAX = 100;
/**
 * The longest that a token may live (30 days, workers/gateway/routes.ts), and a day. Who trusts an issuer whose tokens live longer must not
 * let it go on for who was erased.
 */
const ERASED_MS = 31 * 24 * 3_600_000;
/** A pass says that it lives every BEAT_MS; who dies is followed after the lease. */
const LEASE_MS = 30_000;
const BEAT_MS = 5_000;
/**
 * After a pass that left something waiting: at first a second, in which groups read and sockets close; then twice as long each time,
 * for a group may stand still for days.
 */
const WAIT_FIRST_MS = 1_000;
const SHORT_WAITS = 5;
const WAIT_MAX_MS = 10 * 60_000;

/** What the secret of createErasures is derived for (lib/secrets.ts). */
export const ERASURES_PURPOSE = "erased users";

const startErasure = defineScript({
  name: "imErasureStart",
  lua: startLua,
  keys: ["open", "record"],
  args: ["id", "user", "pseudonym", "runningMax"],
  decode: (reply) => reply as 1 | 0 | -1,
});

export interface ErasureReport {
  readonly state: "running" | "done";
  /** Unix ms. */
  readonly created: number;
  readonly ended?: number;
  /** How often everything was looked through. */
  readonly passes: number;
  /** What was removed or rewritten. What a pass did that died is not counted. */
  readonly erased: ErasedCounts;
  /** What the last pass had to leave, by what it waits for: connections, or the topic and group that has not finished messages. */
  readonly waiting: { readonly on: string; readonly count: number }[];
}

export interface Erasures {
  /** Whether the user is being erased, or was within 31 days. One command. */
  has(user: string): Promise<boolean>;
  /** Begins it, or joins the one that is under way; one that is done is begun anew. RATE_LIMITED beyond 100 at once. */
  begin(user: string): Promise<void>;
  /** undefined: there is none, or its end lies 31 days back. */
  report(user: string): Promise<ErasureReport | undefined>;
}

interface ErasuresParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  /** The same in all processes of the installation. */
  readonly secret: Uint8Array;
}

export function createErasures({ redis, keys, secret }: ErasuresParts): Erasures {
  const idOf = (user: string) => createHmac("sha256", secret).update(user).digest("base64url").slice(0, 22);
  return {
    has: async (user) => (await redis.exists(keys.erasure(idOf(user)))) === 1,
    async begin(user) {
      const id = idOf(user);
      const place = { open: keys.erasures(), record: keys.erasure(id) };
      const pseudonym = `erased-${crypto.getRandomValues(new Uint8Array(12)).toHex()}`;
      const outcome = await startErasure(redis, { ...place, id, user, pseudonym, runningMax: RUNNING_MAX });
      if (outcome !== -1) return;
      throw new AppError("RATE_LIMITED", `${RUNNING_MAX} users are being erased already`, { retryAfterMs: 10_000 });
    },
    async report(user) {
      const of = await redis.hgetall(keys.erasure(idOf(user)));
      if (of.state === undefined) return undefined;
      const waiting = JSON.parse(of.waiting ?? "{}") as Pass["waiting"];
      return {
        state: of.state as ErasureReport["state"],
        created: Number(of.created),
        ...(of.ended === undefined ? {} : { ended: Number(of.ended) }),
        passes: Number(of.passes ?? 0),
        erased: countsOf(of.counts),
        waiting: Object.entries(waiting).map(([on, count]) => ({ on, count })),
      };
    },
  };
}

export interface ErasureRunnerParts extends EraseParts {
  /** Publishes im.user.erased; the id makes a repetition safe. */
  readonly tell: (user: string, id: string, atMs: number) => Promise<unknown>;
  readonly onFailure: (error: unknown) => void;
}

/** One pass of every erasure that is due, one after the other. To be called about once a second by any number of processes. */
export async function runErasures(parts: ErasureRunnerParts, signal: AbortSignal): Promise<void> {
  const { redis, keys, onFailure } = parts;
  await runErrands(
    redis,
    keys.erasures(),
    (id) => (signal.aborted ? Promise.resolve() : new Step(parts, id, signal).run()),
    (_id, error) => onFailure(error),
  );
}

/** One runner's pass of one erasure. */
class Step {
  private readonly runner: string;
  private readonly place: { readonly open: string; readonly record: string; readonly id: string };
  private beatAt = 0;

  constructor(
    private readonly parts: ErasureRunnerParts,
    id: string,
    private readonly signal: AbortSignal,
  ) {
    const { keys, clock } = parts;
    this.runner = newId(clock.now());
    this.place = { open: keys.erasures(), record: keys.erasure(id), id };
  }

  async run(): Promise<void> {
    const claim = await claimErrand(this.parts.redis, this.place, this.runner, LEASE_MS);
    if (claim === "held" || claim === "ended") return;
    const { fields, nowMs } = claim;
    if (Number(fields.due ?? 0) > nowMs) {
      await this.note([]);
      return;
    }
    this.beatAt = this.parts.clock.now();
    try {
      await this.pass(fields, nowMs);
    } catch (error) {
      await this.note(this.dueFields(fields, nowMs)).catch(() => undefined);
      throw toAppError(error);
    }
  }

  private async pass(fields: Readonly<Record<string, string>>, nowMs: number): Promise<void> {
    const { user, pseudonym, created } = fields as { user: string; pseudonym: string; created: string };
    if (user === "") return this.finish();
    if (fields.told !== "1") {
      await this.parts.tell(user, `${this.place.id}.${created}`, Number(created));
      await this.beatNow(["told", 1]);
    }
    const subject = { user, pseudonym, sinceMs: Number(created), isArchiveDone: fields.archived === "1" };
    const { erased, waiting, isArchiveDone } = await eraseUser(this.parts, subject, () => this.beat());
    const counts = countsOf(fields.counts);
    for (const kind of ERASED_KINDS) counts[kind] += erased[kind];
    const progress = [
      ...["passes", Number(fields.passes ?? 0) + 1, "archived", isArchiveDone ? 1 : 0],
      ...["counts", JSON.stringify(counts), "waiting", JSON.stringify(waiting)],
    ];
    const hasFound = ERASED_KINDS.some((kind) => erased[kind] > 0);
    if (Object.keys(waiting).length > 0) await this.note([...progress, ...this.dueFields(fields, nowMs)]);
    else if (hasFound || !isArchiveDone) await this.note([...progress, "waits", 0]);
    else {
      await this.beatNow([...progress, "user", "", "pseudonym", ""]);
      await this.finish();
    }
  }

  /** Nothing names him any more but the past of Redis' append-only file. Of several that have come so far one sees to it for all. */
  private async finish(): Promise<void> {
    const { redis, keys } = this.parts;
    const others = (await redis.smembers(this.place.open)).filter((id) => id > this.place.id);
    const users = await Promise.all(others.map((id) => redis.hget(keys.erasure(id), "user")));
    if (!users.includes("")) await beginLogsAnew(redis);
    await this.note([], "done");
  }

  private dueFields(fields: Readonly<Record<string, string>>, nowMs: number): (string | number)[] {
    const waits = Number(fields.waits ?? 0);
    return [
      "waits",
      waits + 1,
      "due",
      nowMs + Math.min(WAIT_FIRST_MS * 2 ** Math.max(0, waits - SHORT_WAITS), WAIT_MAX_MS),
    ];
  }

  /** Lets the errand go. */
  private async note(fields: (string | number)[], state: "running" | "done" = "running"): Promise<void> {
    await noteErrand(this.parts.redis, this.place, { runner: this.runner, state, fields, keepMs: ERASED_MS });
  }

  private async beat(): Promise<void> {
    if (this.signal.aborted) throw new AppError("OVERLOADED", "This process stops; another one goes on");
    if (this.parts.clock.now() - this.beatAt >= BEAT_MS) await this.beatNow([]);
  }

  private async beatNow(fields: (string | number)[]): Promise<void> {
    this.beatAt = this.parts.clock.now();
    const note = { runner: this.runner, state: "running", fields, leaseMs: LEASE_MS, keepMs: ERASED_MS } as const;
    if ((await noteErrand(this.parts.redis, this.place, note)) !== "ok") throw new AppError("LEASE_LOST");
  }
}

function countsOf(text: string | undefined): ErasedCounts {
  const known = JSON.parse(text ?? "{}") as Partial<ErasedCounts>;
  return Object.fromEntries(ERASED_KINDS.map((kind) => [kind, known[kind] ?? 0])) as ErasedCounts;
}
