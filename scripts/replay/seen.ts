/**
 * The entries of one conversation as devices receive them, each text kept once however many devices have it; and what a device makes
 * of its entries. Texts are canonical JSON: the same value is the same text, whoever put its fields in which order.
 */

import { type Entry, fold, type Message } from "../../lib/client/index.ts";

/** One text of the entry at a seq. Devices may have two: who was away when a message was recalled never gets what it said. */
export interface Variant {
  readonly entry: Entry;
  readonly text: string;
  /** The first device that received it. */
  readonly by: string;
}

export class Seen {
  /** By seq. */
  readonly #variants: Variant[][] = [];
  /** As they came, not canonical yet: nearly all devices get the same bytes. */
  readonly #raw: { json: string; variant: Variant }[][] = [];

  note(entry: Entry, by: string): Variant {
    const json = JSON.stringify(entry);
    this.#raw[entry.seq] ??= [];
    const raw = this.#raw[entry.seq]!;
    const known = raw.find((one) => one.json === json);
    if (known) return known.variant;
    const variant = this.#variantOf(entry, by);
    raw.push({ json, variant });
    return variant;
  }

  at(seq: number): readonly Variant[] {
    return this.#variants[seq] ?? [];
  }

  #variantOf(entry: Entry, by: string): Variant {
    this.#variants[entry.seq] ??= [];
    const variants = this.#variants[entry.seq]!;
    const text = canonical(entry);
    let variant = variants.find((one) => one.text === text);
    if (!variant) {
      variant = { entry, text, by };
      variants.push(variant);
    }
    return variant;
  }
}

/** The messages as they are now, of entries by seq, each in canonical JSON. */
export function foldAll(entries: Iterable<Entry>): Map<number, string> {
  const messages = new Map<number, Message>();
  for (const entry of entries) {
    if (entry.kind === "message") messages.set(entry.seq, entry.message);
    const target = "target" in entry ? messages.get(entry.target) : undefined;
    // Of before the device's time, if there is none.
    if (target) messages.set(target.seq, fold(target, entry));
  }
  return new Map([...messages].map(([seq, message]) => [seq, textOf(message)]));
}

/** Most messages never change, and all devices hold the same object of those. */
const texts = new WeakMap<Message, string>();
function textOf(message: Message): string {
  let text = texts.get(message);
  if (text === undefined) {
    text = canonical(message);
    texts.set(message, text);
  }
  return text;
}

/** Whether two texts of an entry are of the same one: equal, or one of them is what the recall at `recalledAt` left of the other. */
export function isSameEntry(one: Entry, other: Entry): boolean {
  const [a, b] = [canonical(one), canonical(other)];
  return a === b || bare(one, other) === b || bare(other, one) === a;
}

/** `entry` as `recalled` shows it, if that one is a recalled message. */
function bare(entry: Entry, recalled: Entry): string | undefined {
  if (entry.kind !== "message" || recalled.kind !== "message" || recalled.message.recalledAt === undefined)
    return undefined;
  const { mentions: _, ...message } = entry.message;
  return canonical({ ...entry, message: { ...message, body: {}, recalledAt: recalled.message.recalledAt } });
}

/** JSON with the fields of every object in the order of their names. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, field) =>
    typeof field === "object" && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  );
}
