/** The RPC contract of archive: history behind the hot window. Records and parts come back as the text that logic committed. */

import * as v from "valibot";

const Position = v.pipe(v.number(), v.integer(), v.minValue(0));

export const ArchivedEntrySchema = v.strictObject({
  seq: Position,
  kind: v.picklist(["message", "edit", "recall", "reaction", "member", "settings"]),
  id: v.string(),
  /** Messages up to and with this entry. */
  ordinal: Position,
  /** JSON: of a message the whole message, of others the entry. */
  record: v.string(),
  /** What later entries made of this one: of the parts asked for, those that there are. */
  parts: v.optional(v.record(v.string(), v.string())),
});
export type ArchivedEntry = v.InferOutput<typeof ArchivedEntrySchema>;

/** Timelines of one search: a look into the index for each, some 20 µs on SQLite. */
export const SEARCHED_TIMELINES_MAX = 500;
/** Of one search: each narrows it, and each is one more list of the index to read. */
export const SEARCHED_WORDS_MAX = 16;
const SEARCHED_CHARACTERS_MAX = 256;

/** Where an entry was found. Newest first: by `at`, then conversation, then seq, all descending. */
const FoundSchema = v.strictObject({ conversation: v.string(), seq: Position, at: Position });
export type Found = v.InferOutput<typeof FoundSchema>;

export const archiveContract = {
  service: "archive",
  methods: {
    /**
     * Entries with after < seq < before, ascending. `newest`: the last `limit` of the range, else the first. `messagesOnly` narrows.
     * `parts` names what of their folded state is wanted.
     */
    history: {
      input: v.strictObject({
        conversation: v.string(),
        epoch: v.string(),
        after: v.optional(Position),
        before: v.optional(Position),
        limit: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1_000)),
        newest: v.boolean(),
        messagesOnly: v.boolean(),
        parts: v.optional(v.pipe(v.array(v.string()), v.maxLength(4)), []),
      }),
      output: v.strictObject({ entries: v.array(ArchivedEntrySchema) }),
      idempotent: true,
    },
    /** Entries of these timelines whose text, as it is now, has every word of `text` (lib/words.ts), newest first. No word, no hit. */
    search: {
      input: v.strictObject({
        timelines: v.pipe(
          v.array(v.strictObject({ conversation: v.string(), epoch: v.string() })),
          v.maxLength(SEARCHED_TIMELINES_MAX),
        ),
        text: v.pipe(v.string(), v.maxLength(SEARCHED_CHARACTERS_MAX)),
        /** Only what comes after it in the order of hits. */
        before: v.optional(FoundSchema),
        limit: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(50)),
      }),
      output: v.strictObject({ found: v.array(FoundSchema) }),
      idempotent: true,
    },
  },
} as const;

export type ArchiveContract = typeof archiveContract;
