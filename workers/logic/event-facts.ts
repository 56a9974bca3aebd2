/** What delivery must know of a chat event, read from its text with as little parsing as it takes. */

import type { Route } from "../../lib/im/index.ts";
import type { Message } from "../../lib/mq/index.ts";

type Event = Message<unknown>;

export const isOfChannel = ({ properties }: Event) => properties.channel !== undefined;
export const isMembership = ({ type }: Event) => type === "im.member.added" || type === "im.member.removed";

/** Of an event of membership: who came or went. */
export function changedUsers({ raw }: Event): readonly string[] {
  return (JSON.parse(raw) as { entry: { users: string[] } }).entry.users;
}

/** Of a conversation's creation: its first members. */
export function firstMembers({ raw }: Event): readonly string[] {
  return (JSON.parse(raw) as { members: string[] }).members;
}

export function readerOf({ raw }: Event): string {
  return (JSON.parse(raw) as { user: string }).user;
}

const FROM = '"from":"';

/** Ids stand before the sender in a message, and hold no quotes. */
export function senderOf({ raw }: Event): string {
  const start = raw.indexOf(FROM) + FROM.length;
  return raw.slice(start, raw.indexOf('"', start));
}

/** The connection that a message came by: the one that is not told. */
export function originOf(event: Event, routesOf: (user: string) => readonly Route[]): Route | undefined {
  const { connection } = event.properties;
  if (event.type !== "im.message.created" || connection === undefined) return undefined;
  return routesOf(senderOf(event)).find((route) => route.connection === connection);
}
