/**
 * Whom an event of a channel goes to: gateways, each of which knows the subscribers among its connections (lib/im/channels.ts). No
 * list of members is loaded for it. Who comes into the channel or leaves it is told to his gateways with the very frame, so
 * what follows in the channel's order reaches, or no longer reaches, him.
 */

import { createChannels, firstMembers, type Route } from "../../lib/im/index.ts";
import type { Message } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import { changedUsers, isMembership, isOfChannel, originOf } from "./event-facts.ts";
import type { Outgoing } from "./outgoing.ts";

type Event = Message<unknown>;

/** Of one channel, as of the batch. */
interface Reach {
  readonly listed: Set<string>;
  /** Gateways of users who came or went in the batch and that the list lacks. */
  readonly added: Set<string>;
}

export type Reaches = ReadonlyMap<string, Reach>;

interface Turn {
  readonly users: readonly string[];
  readonly isIn: boolean;
}

function turnOf(event: Event): Turn | undefined {
  if (event.type === "im.conversation.created") return { users: firstMembers(event), isIn: true };
  return isMembership(event) ? { users: changedUsers(event), isIn: event.type === "im.member.added" } : undefined;
}

export function createChannelAudience(redis: RedisClient, keys: Keys) {
  const channels = createChannels(redis, keys);
  return {
    /** Writes down who came and went, for those who connect from now on. */
    async note(events: readonly Event[]): Promise<void> {
      for (const event of events) {
        const turn = isOfChannel(event) ? turnOf(event) : undefined;
        if (turn) await channels.note(turn.users, event.key, event.sequence ?? 0, turn.isIn);
      }
    },

    /** The gateways of the batch's channels. One small read per channel and batch: whoever was listed before an event is there. */
    async reaches(events: readonly Event[]): Promise<Reaches> {
      const ids = [...new Set(events.filter(isOfChannel).map(({ key }) => key))];
      const lists = await Promise.all(ids.map((channel) => channels.gatewaysOf(channel)));
      return new Map(ids.map((channel, i) => [channel, { listed: new Set(lists[i]), added: new Set<string>() }]));
    },

    address(
      outgoing: Outgoing,
      event: Event,
      frame: string,
      reaches: Reaches,
      routesOf: (user: string) => readonly Route[],
    ): void {
      const { listed, added } = reaches.get(event.key)!;
      const place = `${event.key} ${event.sequence ?? 0}`;
      const turn = turnOf(event);
      const turned = new Map<string, string>();
      for (const { gateway, number } of turn?.users.flatMap(routesOf) ?? []) {
        const numbers = turned.get(gateway);
        turned.set(gateway, numbers === undefined ? number : `${numbers},${number}`);
        // Also of who left: a route that is just being written may have been answered as a subscriber's.
        if (!listed.has(gateway)) added.add(gateway);
      }
      if (turn) outgoing.keepOrder();
      const origin = originOf(event, routesOf);
      for (const gateway of [...listed, ...added]) {
        const numbers = turned.get(gateway);
        const list = numbers === undefined ? "#" : `#${turn?.isIn ? "+" : "-"}${numbers}`;
        outgoing.add(gateway, place, list, frame, origin?.gateway === gateway ? origin.number : "");
      }
    },

    async enlist(reaches: Reaches): Promise<void> {
      await Promise.all([...reaches].map(([channel, { added }]) => channels.enlist(channel, [...added])));
    },

    async forgetGateway(reaches: Reaches, gateway: string): Promise<void> {
      const reached = [...reaches].filter(([, { listed, added }]) => listed.has(gateway) || added.has(gateway));
      await Promise.all(reached.map(([channel]) => channels.strike(channel, gateway)));
    },
  };
}
