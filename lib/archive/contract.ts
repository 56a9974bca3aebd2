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
  },
} as const;

export type ArchiveContract = typeof archiveContract;
