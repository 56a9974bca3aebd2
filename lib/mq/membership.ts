/**
 * Who is alive in a group, how many partitions this member may hold, and what an operator ordered of the group. Members beat
 * into one small hash; the partitions are divided evenly among the live, in the order of their names, and the quotas add up to
 * all partitions, so that a group in balance asks for nothing. Who holds which partition is decided by the leases alone: a
 * wrong view of the members costs evenness for a moment, never exclusiveness.
 */

import { defineScript } from "../redis/index.ts";
import beatLua from "../redis/lua/mq-member-beat.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";

type BeatReply = [live: string[], paused: string, seeks: string];

const beatScript = defineScript({
  name: "mqMemberBeat",
  lua: beatLua,
  keys: ["members", "control"],
  args: ["member", "liveMs"],
  decode: (reply) => reply as BeatReply,
});

/** What a member sees when it looks. */
export interface View {
  /** The partitions that it may hold now; none while the group is paused. */
  readonly quota: number;
  readonly isPaused: boolean;
  /** The group was set to another place since the last look: what is held is held no more. */
  readonly isSought: boolean;
}

export class Membership {
  readonly #context: QueueContext;
  readonly #member: string;
  readonly #members: string;
  readonly #control: string;
  readonly #leaseMs: number;
  #beatAt = Number.NEGATIVE_INFINITY;
  /** As of the last look; undefined before the first. */
  #seeks: string | undefined;

  constructor(context: QueueContext, topic: string, group: string, leaseMs: number, member = context.member) {
    this.#context = context;
    this.#member = member;
    this.#members = context.keys.groupMembers(topic, group);
    this.#control = context.keys.groupControl(topic, group);
    this.#leaseMs = leaseMs;
  }

  /**
   * Writes a beat every third of the lease; between them it only reads, so that an idle group writes nothing. A member is taken
   * for dead before its leases end, so that the others wait for them already. Throws Redis errors.
   */
  async look(): Promise<View> {
    const isBeatDue = performance.now() - this.#beatAt > this.#leaseMs / 3;
    const [live, paused, seeks] = await (isBeatDue ? this.#beat() : this.#read());
    const isSought = this.#seeks !== undefined && this.#seeks !== seeks;
    this.#seeks = seeks;
    const isPaused = paused !== "";
    const quota = isPaused ? 0 : quotaOf(this.#member, live, this.#context.keys.partitions);
    return { quota, isPaused, isSought };
  }

  /** The others divide this member's share from their next look on. */
  async leave(): Promise<void> {
    this.#beatAt = Number.POSITIVE_INFINITY;
    await this.#context.redis.commands.hdel(this.#members, this.#member);
  }

  async #beat(): Promise<BeatReply> {
    const reply = await beatScript(this.#context.redis.commands, {
      members: this.#members,
      control: this.#control,
      member: this.#member,
      liveMs: Math.ceil((this.#leaseMs * 2) / 3),
    });
    this.#beatAt = performance.now();
    return reply;
  }

  async #read(): Promise<BeatReply> {
    const { commands } = this.#context.redis;
    const [live, [paused, seeks]] = await Promise.all([
      commands.hkeys(this.#members),
      commands.hmget(this.#control, "paused", "seeks"),
    ]);
    // The hash was lost: be back in it with the next look.
    if (!live.includes(this.#member)) this.#beatAt = Number.NEGATIVE_INFINITY;
    return [live, paused ?? "", seeks ?? "0"];
  }
}

/** The share of `member` when `partitions` are divided evenly among `live`; the first names take the remainder. */
export function quotaOf(member: string, live: readonly string[], partitions: number): number {
  const members = [...new Set([...live, member])].sort();
  const share = Math.floor(partitions / members.length);
  return share + (members.indexOf(member) < partitions % members.length ? 1 : 0);
}
