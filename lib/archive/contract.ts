/** The RPC contract of archive: history behind the hot window. Records come back as the JSON that logic committed. */

import * as v from "valibot";

const Position = v.pipe(v.number(), v.integer(), v.minValue(0));

export const ArchivedEntrySchema = v.strictObject({
  seq: Position,
  kind: v.picklist(["message", "member", "settings"]),
  id: v.string(),
  /** Messages up to and with this entry. */
  ordinal: Position,
  /** JSON: of a message the whole message, of others the entry. */
  record: v.string(),
});
export type ArchivedEntry = v.InferOutput<typeof ArchivedEntrySchema>;

export const archiveContract = {
  service: "archive",
  methods: {
    /**
     * Entries with after < seq < before, ascending. `newest`: the last `limit` of the range, else the first. `messagesOnly` narrows.
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
      }),
      output: v.strictObject({ entries: v.array(ArchivedEntrySchema) }),
      idempotent: true,
    },
  },
} as const;

export type ArchiveContract = typeof archiveContract;
