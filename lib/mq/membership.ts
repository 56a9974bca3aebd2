/**
 * Who is alive in a group, and how many partitions this member may hold. Members beat into one small hash; the partitions are
 * divided evenly among the live, in the order of their names, and the quotas add up to all partitions, so that a group in
 * balance asks for nothing. Who holds which partition is decided by the leases alone: a wrong view of the members costs
 * evenness for a moment, never exclusiveness.
 */

import { defineScript } from "../redis/index.ts";
import beatLua from "../redis/lua/mq-member-beat.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";

const beatScript = defineScript({
  name: "mqMemberBeat",
  lua: beatLua,
  keys: ["members"],
  args: ["member", "liveMs"],
  decode: (reply) => reply as string[],
});

export class Membership {
  readonly #context: QueueContext;
  readonly #key: string;
  readonly #leaseMs: number;
  #beatAt = Number.NEGATIVE_INFINITY;

  constructor(context: QueueContext, topic: string, group: string, leaseMs: number) {
    this.#context = context;
    this.#key = context.keys.groupMembers(topic, group);
    this.#leaseMs = leaseMs;
  }

  /**
   * The partitions that this member may hold now. Writes a beat every third of the lease; between them it only reads, so that
   * an idle group writes nothing. A member is taken for dead before its leases end, so that the others wait for them already.
   */
  async quota(): Promise<number> {
    const { redis, member, keys } = this.#context;
    let live: string[];
    if (performance.now() - this.#beatAt > this.#leaseMs / 3) {
      live = await beatScript(redis.commands, {
        members: this.#key,
        member,
        liveMs: Math.ceil((this.#leaseMs * 2) / 3),
      });
      this.#beatAt = performance.now();
    } else {
      live = await redis.commands.hkeys(this.#key);
      // The hash was lost: be back in it with the next look.
      if (!live.includes(member)) this.#beatAt = Number.NEGATIVE_INFINITY;
    }
    return quotaOf(member, live, keys.partitions);
  }

  /** The others divide this member's share from their next look on. */
  async leave(): Promise<void> {
    this.#beatAt = Number.POSITIVE_INFINITY;
    await this.#context.redis.commands.hdel(this.#key, this.#context.member);
  }
}

/** The share of `member` when `partitions` are divided evenly among `live`; the first names take the remainder. */
export function quotaOf(member: string, live: readonly string[], partitions: number): number {
  const members = [...new Set([...live, member])].sort();
  const share = Math.floor(partitions / members.length);
  return share + (members.indexOf(member) < partitions % members.length ? 1 : 0);
}
