/**
 * The client's place in each conversation: what arrives is handed on once, by seq, without a hole. Live frames are hints;
 * after a reconnect, and wherever a hole stays open, `sync` tells the truth, and live frames are held until it is heard.
 *
 *   following ──hole open for GAP_GRACE_MS, reconnect, session.resync──► behind ──sync: resumed, no more──► following
 *
 * Every conversation that the server names is followed, from the head it had then. A new epoch, or a distance that the
 * server does not replay, is told as `resync`: what the app holds of the conversation does not join up with what follows.
 */

import { ClientError } from "./error.ts";
import type { SyncReply } from "./methods.ts";
import type { ConversationView, Cursor, Entry } from "./model.ts";

/** A hole is mostly our own acknowledgement overtaking the notifications of others: they come within this. */
const GAP_GRACE_MS = 300;
/** Entries held per conversation until a hole closes or a catch-up ends; past it they are dropped and asked for. */
const HELD_MAX = 500;
/** As many as the server takes in one sync. */
const CURSORS_MAX = 200;
/** Conversations left behind whose end is remembered: what was told twice of one comes within moments, if at all. */
const LEFT_MAX = 1_000;
/** After a sync that failed or brought nothing new, so that a server in trouble is not asked in a loop. */
const SYNC_PAUSE_MS = 1_000;

type Synced = SyncReply["conversations"][number];

/** The app's own state of a conversation does not join up: drop it (`reset`) or page history for what is between (`gap`). */
export interface ResyncNotice {
  readonly conversation: string;
  readonly verdict: "gap" | "reset";
  /** The last entry that was handed on before; 0: none. */
  readonly after: number;
  /** The next entry to come; more than `after` + 1: there are entries between. */
  readonly next: number;
}

export interface TimelineEvents {
  onEntry(conversation: string, entry: Entry): void;
  onResync(notice: ResyncNotice): void;
  /** A message that was caught up on and that the user has deleted for himself; after its entry. */
  onHidden(notice: { conversation: string; seq: number }): void;
  /** How far the user has read on whatever device; after the entries. */
  onRead(notice: { conversation: string; seq: number }): void;
}

interface Place {
  epoch: string;
  seq: number;
  id: string | undefined;
  isBehind: boolean;
  /** How often it fell behind: an answer to what was asked before the last time proves nothing. */
  doubts: number;
  held: Map<number, Entry>;
  grace: ReturnType<typeof setTimeout> | undefined;
}

/** A place as of a question. */
interface Asked {
  readonly place: Place;
  readonly doubts: number;
}

export type Timelines = ReturnType<typeof createTimelines>;

export function createTimelines(sync: (cursors: Cursor[]) => Promise<SyncReply>, events: TimelineEvents) {
  const places = new Map<string, Place>();
  /** Where the user left: the server may tell again of what was before (it delivers at least once). */
  const left = new Map<string, number>();
  let isRunning = false;
  let isEnded = false;
  /** Whether conversations that we do not know are to be asked for. */
  let isDiscovering = false;

  function begin(conversation: string, epoch: string, seq: number, id?: string): Place {
    left.delete(conversation);
    const place: Place = { epoch, seq, id, isBehind: false, doubts: 0, held: new Map(), grace: undefined };
    places.set(conversation, place);
    return place;
  }

  /** An entry in the conversation's order: handed on, held, or dropped as known. */
  function offer(conversation: string, place: Place, entry: Entry): void {
    if (entry.seq <= place.seq) {
      // The same place with another entry: the server's timeline is not the one we followed.
      if (entry.seq === place.seq && place.id !== undefined && entry.id !== place.id) fallBehind(place);
      return;
    }
    if (place.isBehind || entry.seq > place.seq + 1) hold(place, entry);
    else {
      advance(conversation, place, entry);
      drain(conversation, place);
    }
  }

  function advance(conversation: string, place: Place, entry: Entry): void {
    place.seq = entry.seq;
    place.id = entry.id;
    events.onEntry(conversation, entry);
  }

  function hold(place: Place, entry: Entry): void {
    if (place.held.size >= HELD_MAX) place.held.clear();
    place.held.set(entry.seq, entry);
    if (!place.isBehind) startGrace(place);
  }

  function startGrace(place: Place): void {
    place.grace ??= setTimeout(() => {
      place.grace = undefined;
      if (place.held.size > 0) fallBehind(place);
    }, GAP_GRACE_MS);
  }

  /** Hands on what was held as far as it joins up. */
  function drain(conversation: string, place: Place): void {
    if (place.held.size === 0) return;
    for (const seq of [...place.held.keys()].sort((a, b) => a - b)) {
      if (seq > place.seq + 1) return;
      const entry = place.held.get(seq)!;
      place.held.delete(seq);
      if (seq === place.seq + 1) advance(conversation, place, entry);
    }
    clearTimeout(place.grace);
    place.grace = undefined;
  }

  function mark(place: Place): void {
    place.isBehind = true;
    place.doubts += 1;
  }

  function fallBehind(place: Place): void {
    mark(place);
    void catchUp();
  }

  /** Asks until nobody is behind. One sync at a time; it is repeated over reconnects by the requests' own rule. */
  async function catchUp(): Promise<void> {
    if (isRunning || isEnded) return;
    isRunning = true;
    while (!isEnded) {
      const behind = [...places].filter(([, place]) => place.isBehind);
      if (behind.length === 0 && !isDiscovering) break;
      // Those that are up to date are named too: the server starts over whatever is not named.
      const others = [...places].filter(([, place]) => !place.isBehind);
      const asked = new Map([...behind, ...others].slice(0, CURSORS_MAX).map(([id, place]) => [id, toAsked(place)]));
      const wasDiscovering = isDiscovering;
      isDiscovering = false;
      try {
        const { conversations } = await sync([...asked].map(([id, { place }]) => toCursor(id, place)));
        const isFutile = !settle(asked, conversations);
        if (isFutile) await pause();
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
        isDiscovering ||= wasDiscovering;
        if (!isEnded) await pause();
      }
    }
    isRunning = false;
  }

  /** Applies an answer. False when it brought none of those behind forward. */
  function settle(asked: ReadonlyMap<string, Asked>, answers: readonly Synced[]): boolean {
    let hasMoved = false;
    const unanswered = new Map(asked);
    for (const answer of answers) {
      const { conversation } = answer;
      unanswered.delete(conversation);
      const question = asked.get(conversation);
      // Left meanwhile, or followed anew meanwhile: the answer is about a place that is no more.
      if (places.get(conversation) !== question?.place) continue;
      if (question && answer.verdict === "resumed") hasMoved = resume(conversation, question, answer) || hasMoved;
      else {
        startOver(conversation, question, answer);
        hasMoved = true;
      }
      for (const seq of answer.hidden ?? []) events.onHidden({ conversation, seq });
      if (answer.read > 0) events.onRead({ conversation, seq: answer.read });
    }
    for (const [conversation, { place, doubts }] of unanswered) {
      if (!place.isBehind || places.get(conversation) !== place) continue;
      // Not a member any more. Or one again, by what came meanwhile: that the next answer tells.
      if (place.held.size === 0 && place.doubts === doubts) forget(conversation);
      else place.held.clear();
    }
    return hasMoved;
  }

  function resume(conversation: string, { place, doubts }: Asked, { entries, more, epoch }: Synced): boolean {
    const before = place.seq;
    place.epoch = epoch;
    for (const entry of entries) if (entry.seq === place.seq + 1) advance(conversation, place, entry);
    const wasBehind = place.isBehind;
    const isNew = place.doubts !== doubts;
    place.isBehind = more || isNew;
    if (!place.isBehind) {
      drain(conversation, place);
      // What does not join up yet has its grace, as any hole has.
      if (place.held.size > 0) startGrace(place);
    }
    return place.seq > before || isNew || (wasBehind && !place.isBehind);
  }

  function startOver(conversation: string, question: Asked | undefined, answer: Synced): void {
    const { verdict, epoch, head, entries } = answer;
    const next = entries[0]?.seq ?? head + 1;
    const place = question?.place ?? begin(conversation, epoch, 0);
    const after = verdict === "reset" ? 0 : place.seq;
    const fresh = verdict === "reset" ? entries : entries.filter((entry) => entry.seq > place.seq);
    place.epoch = epoch;
    place.isBehind = question !== undefined && place.doubts !== question.doubts;
    if (verdict === "reset" || next > place.seq + 1) {
      const notice = { conversation, verdict: verdict as ResyncNotice["verdict"], after, next };
      place.seq = next - 1;
      place.id = undefined;
      events.onResync(notice);
    }
    for (const entry of fresh) advance(conversation, place, entry);
    const held = [...place.held.values()];
    place.held.clear();
    for (const entry of held.sort((a, b) => a.seq - b.seq)) offer(conversation, place, entry);
  }

  const pause = () => new Promise((resolve) => setTimeout(resolve, SYNC_PAUSE_MS));

  function forget(conversation: string): void {
    clearTimeout(places.get(conversation)?.grace);
    places.delete(conversation);
  }

  return {
    /** The user is out as of the entry `seq`; false when a later entry took the user in again, or nothing was followed. */
    leave(conversation: string, seq?: number): boolean {
      const place = places.get(conversation);
      if (!place) {
        const known = left.get(conversation);
        if (known !== undefined && seq !== undefined && seq > known) left.set(conversation, seq);
        return false;
      }
      if (seq !== undefined && seq <= place.seq) return false;
      if (left.size >= LEFT_MAX) left.delete(left.keys().next().value!);
      left.set(conversation, seq ?? place.seq);
      forget(conversation);
      return true;
    },
    /** A live entry. One of a conversation that nobody named is held until sync tells where it stands. */
    live(conversation: string, entry: Entry): void {
      const known = places.get(conversation);
      if (known) {
        offer(conversation, known, entry);
        return;
      }
      if (entry.seq <= (left.get(conversation) ?? 0)) return;
      const place = begin(conversation, "", 0);
      hold(place, entry);
      fallBehind(place);
    },
    /** Follows from after `seq`. What is already known of the conversation stands. */
    follow({ conversation, epoch, seq, id }: Cursor): void {
      const place = places.get(conversation);
      if (!place) {
        if (seq >= (left.get(conversation) ?? 0)) begin(conversation, epoch, seq, id);
      } else if (place.epoch === "") {
        place.epoch = epoch;
        if (place.isBehind && seq > place.seq) [place.seq, place.id] = [seq, id];
      }
    },
    /** The conversation as the server shows it: another epoch than ours is asked about. */
    compare({ id, epoch }: ConversationView): void {
      const place = places.get(id);
      if (place && place.epoch !== "" && place.epoch !== epoch) fallBehind(place);
    },
    /** It may have moved on unheard. */
    doubt(conversation: string): void {
      const place = places.get(conversation);
      if (place) fallBehind(place);
    },
    /** Everything may have moved on: after a (re)connect, and when the server says so. */
    catchUpAll(): void {
      for (const place of places.values()) mark(place);
      isDiscovering = true;
      void catchUp();
    },
    /** To be kept by the app and given to connect() at its next start. */
    cursors: (): Cursor[] => [...places].map(([conversation, place]) => toCursor(conversation, place)),
    end(): void {
      isEnded = true;
      for (const conversation of [...places.keys()]) forget(conversation);
    },
  };
}

function toAsked(place: Place): Asked {
  return { place, doubts: place.doubts };
}

function toCursor(conversation: string, { epoch, seq, id }: Place): Cursor {
  return { conversation, epoch, seq, ...(id === undefined ? {} : { id }) };
}
