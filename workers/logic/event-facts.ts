/** What delivery and inbox must know of a chat event, read from its text with as little parsing as it takes. */

import { firstMembers, type Route } from "../../lib/im/index.ts";
import type { Message } from "../../lib/mq/index.ts";

type Event = Message<unknown>;

export const isOfChannel = ({ properties }: Event) => properties.channel !== undefined;
export const isMembership = ({ type }: Event) => type === "im.member.added" || type === "im.member.removed";

/** Of an event of membership: who came or went. */
export function changedUsers({ raw }: Event): readonly string[] {
  return (JSON.parse(raw) as { entry: { users: string[] } }).entry.users;
}

/** Who comes into a conversation, or leaves it, as lists have it. Channels are in no list's index. */
export function listChanges(events: readonly Event[]): Map<string, Map<string, number | undefined>> {
  const changes = new Map<string, Map<string, number | undefined>>();
  for (const event of events) {
    if (isOfChannel(event)) continue;
    const isCreated = event.type === "im.conversation.created";
    const users = isCreated ? firstMembers(event) : isMembership(event) ? changedUsers(event) : [];
    const activeMs = event.type === "im.member.removed" ? undefined : event.time;
    for (const user of users) listChange(changes, user, event.key, activeMs);
  }
  return changes;
}

/** Adds one: `activeMs` undefined takes the conversation out of the user's list. */
export function listChange(
  changes: Map<string, Map<string, number | undefined>>,
  user: string,
  conversation: string,
  activeMs: number | undefined,
): void {
  const own = changes.get(user);
  if (own) own.set(conversation, activeMs);
  else changes.set(user, new Map([[conversation, activeMs]]));
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
