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

/**
 * Entries looked at in one call: some ms of the archive's time. All may be found, each with its content: the largest that users can
 * write, of control characters, are 150 KB in an answer, which is 64 MB at most.
 */
export const LOOKED_AT_MAX = 250;
/** Rewritten in one. */
export const REWRITTEN_MAX = 1_000;

const TimelineFields = { conversation: v.string(), epoch: v.string(), seq: Position };
/** Between two entries, in the order in which the archive looks through all timelines. */
const PlaceSchema = v.strictObject({ timeline: Position, seq: Position });
const FoundRecordSchema = v.strictObject({
  ...TimelineFields,
  kind: ArchivedEntrySchema.entries.kind,
  record: v.string(),
});
const FoundPartSchema = v.strictObject({ ...TimelineFields, part: v.string(), text: v.string() });
/** All entries that hold a text, a page at a time. */
const FindOutput = v.strictObject({
  records: v.array(FoundRecordSchema),
  parts: v.array(FoundPartSchema),
  /** Where the next page begins; left out: this was the last. */
  next: v.optional(PlaceSchema),
});
export type FindPage = v.InferOutput<typeof FindOutput>;

const RewriteSchema = v.strictObject({
  ...TimelineFields,
  /** In place of the one that there is. */
  record: v.optional(v.string()),
  /** In place of those that there are; null removes one. As of the entry as of which they were. */
  parts: v.optional(v.record(v.string(), v.nullable(v.string()))),
  /** Search finds it no more. */
  unsearchable: v.optional(v.literal(true)),
});
export type Rewrite = v.InferOutput<typeof RewriteSchema>;

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
    /** Entries of all timelines whose record holds the text, and parts that hold it or are called `part`, from `from` on. */
    find: {
      input: v.strictObject({
        text: v.pipe(v.string(), v.minLength(1)),
        part: v.string(),
        from: v.optional(PlaceSchema),
        count: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(LOOKED_AT_MAX)),
      }),
      output: FindOutput,
      idempotent: true,
    },
    /** Changes what is archived: for erasure alone. Entries that there are not are passed over. */
    rewrite: {
      input: v.strictObject({ entries: v.pipe(v.array(RewriteSchema), v.maxLength(REWRITTEN_MAX)) }),
      output: v.strictObject({}),
      idempotent: true,
    },
    /** A step of taking off the disk what was rewritten, as far as that is the store's to do. `more`: call again. */
    scrub: { input: v.strictObject({}), output: v.strictObject({ more: v.boolean() }), idempotent: true },
  },
} as const;

export type ArchiveContract = typeof archiveContract;
