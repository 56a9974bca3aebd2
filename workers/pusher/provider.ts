/**
 * What every push provider promises: one notification to one device, and what became of it in one of five words. The pusher
 * decides by the word alone; what a status or an error name means is the provider's to know.
 *
 *   sent      the provider took it
 *   gone      the device will never be reached again under this address: remove it
 *   later     not now (429, 503, no answer): the same again, not before `afterMs` when it says so
 *   refused   this notification or our credentials will never be taken: a dead letter, for a person to read
 *   expired   our credentials were too old and are new now: again at once, once
 */

/** What a phone shows. Texts are cut by the pusher; a provider cuts nothing and refuses what is too large. */
export interface Notification {
  /** The same for every try, so that a receiver can act once. */
  readonly id: string;
  /** Of a message, or what a notice is about: a later one of the same conversation takes the place of an earlier one. */
  readonly conversation?: string | undefined;
  readonly seq?: number | undefined;
  readonly title: string;
  readonly text: string;
  /** The badge: messages unread in the conversation. A notice has none. */
  readonly unread?: number | undefined;
  /** Of no use to anybody after this. */
  readonly expiresAt: number;
}

export type PushOutcome =
  | { readonly kind: "sent" }
  | { readonly kind: "gone" }
  | { readonly kind: "later"; readonly afterMs: number | undefined }
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "expired" };

export interface PushProvider<Address> {
  /** Never rejects but with `signal`'s reason. */
  send(address: Address, notification: Notification, signal: AbortSignal): Promise<PushOutcome>;
}

/** Seconds that a provider may keep it for a phone that is off; at least one, for 0 means "now or never" to all of them. */
export function ttlSeconds({ expiresAt }: Notification, nowMs: number): number {
  return Math.max(1, Math.floor((expiresAt - nowMs) / 1_000));
}

/** What a later notification replaces an earlier one by. */
export function collapseKeyOf({ conversation, id }: Notification): string {
  return conversation ?? id;
}

/** The JSON that our own clients are given by Web Push and webhooks. */
export function payloadOf({ id, conversation, seq, title, text, unread }: Notification): string {
  return JSON.stringify({ id, conversation, seq, title, text, unread });
}
