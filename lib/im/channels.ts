/**
 * Who hears a channel. Its subscribers are too many to be looked up for each message, so nobody does: every user has a list of his
 * own channels, a gateway learns it when the user connects and keeps who of its connections hears what, and the channel has a
 * list of the gateways that hold any of them. A message is one frame per gateway.
 *
 *   user connects     route written ─► own channels read, each checked against its members ─► gateway in each channel's list
 *   user comes or     delivery notes it in the user's own list ─► then looks for the user's routes ─► tells these gateways, in
 *   goes              the order of the channel's entries
 *
 * Whichever of the two comes first, one of them sees the other. A note carries the seq of its entry, so an older one, repeated
 * by a member of the delivery group that lost its lease, changes nothing.
 */

import type { Keys, RedisClient } from "../redis/index.ts";

/** Channels of one user that are listed and heard: a look at each when the user connects or lists. */
const CHANNELS_PER_USER_MAX = 500;
/** Beyond so many notes those of channels that were left are forgotten. */
const NOTES_MAX = 1_000;

export interface Activity {
  readonly conversation: string;
  readonly activeMs: number;
}

export interface Channels {
  /** Notes that these users came into the channel, or left it, by its entry `seq` (0: its creation). Idempotent. */
  note(users: Iterable<string>, channel: string, seq: number, isIn: boolean): Promise<void>;
  /** The channels that the user is a member of now, with their last activity. At most 500. */
  of(user: string): Promise<Activity[]>;
  /** The ids of these; from now on the gateway is in the list of each. For a user whose route there is written. */
  heardBy(user: string, gateway: string): Promise<string[]>;
  /** The gateways that a frame of the channel goes to. */
  gatewaysOf(channel: string): Promise<string[]>;
  enlist(channel: string, gateways: readonly string[]): Promise<void>;
  /** The gateway is gone. */
  strike(channel: string, gateway: string): Promise<void>;
}

export function createChannels(redis: RedisClient, keys: Keys): Channels {
  async function noted(user: string): Promise<string[]> {
    const rows = await redis.zrangebyscore(keys.channels(user), "-inf", "+inf", "WITHSCORES");
    const found: string[] = [];
    const left: string[] = [];
    for (let i = 0; i < rows.length; i += 2) (Number(rows[i + 1]) % 2 === 1 ? found : left).push(rows[i]!);
    if (rows.length / 2 > NOTES_MAX && left.length > 0) await redis.zrem(keys.channels(user), ...left);
    return found.slice(0, CHANNELS_PER_USER_MAX);
  }

  async function of(user: string): Promise<Activity[]> {
    const channels = await noted(user);
    const values = await Promise.all(channels.map((channel) => redis.hmget(keys.members(channel), "#", user)));
    return channels.flatMap((conversation, i) => {
      const [place, member] = values[i]!;
      return place && member ? [{ conversation, activeMs: Number(place.split(" ")[2]) }] : [];
    });
  }

  async function enlist(channel: string, gateways: readonly string[]): Promise<void> {
    if (gateways.length > 0) await redis.sadd(keys.channelGateways(channel), ...gateways);
  }

  return {
    of,
    enlist,
    async note(users, channel, seq, isIn) {
      const score = 2 * seq + (isIn ? 1 : 0);
      await Promise.all(Array.from(users, (user) => redis.zadd(keys.channels(user), "GT", score, channel)));
    },
    async heardBy(user, gateway) {
      const channels = (await of(user)).map(({ conversation }) => conversation);
      await Promise.all(channels.map((channel) => enlist(channel, [gateway])));
      return channels;
    },
    gatewaysOf: (channel) => redis.smembers(keys.channelGateways(channel)),
    async strike(channel, gateway) {
      await redis.srem(keys.channelGateways(channel), gateway);
    },
  };
}
