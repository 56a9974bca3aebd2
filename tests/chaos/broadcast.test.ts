/**
 * The judge of the campaign on broadcasts: each fault planted alone is found under its name. The campaign in small is
 * tests/workers/broadcasts.test.ts.
 */

import { expect, test } from "bun:test";
import { type BroadcastVerdict, judgeBroadcast } from "../../scripts/chaos/broadcast-campaign.ts";

const HELLO = { from: "skein", text: "hello" };
const CLEAN: BroadcastVerdict = { missing: 0, doubled: 0, strange: 0, miscounted: 0 };
const counted = { total: 3, sent: 3, refused: {} };

test("nothing is found where all is well", () => {
  expect(judgeBroadcast([[HELLO], [HELLO], [HELLO]], HELLO, counted)).toEqual(CLEAN);
});

test.each<[keyof BroadcastVerdict, object[][], object]>([
  ["missing", [[HELLO], [], [HELLO]], {}],
  ["doubled", [[HELLO], [HELLO, HELLO], [HELLO]], {}],
  ["strange", [[HELLO], [HELLO, { from: "bob", text: "hello" }], [HELLO]], {}],
  ["miscounted", [[HELLO], [HELLO], [HELLO]], { total: 4 }],
  ["miscounted", [[HELLO], [HELLO], [HELLO]], { sent: 2 }],
  ["miscounted", [[HELLO], [HELLO], [HELLO]], { refused: { FORBIDDEN: 1 } }],
])("%s is found", (kind, found, change) => {
  const verdict = judgeBroadcast(found as (typeof HELLO)[][], HELLO, { ...counted, ...change });
  expect(verdict).toEqual({ ...CLEAN, [kind]: 1 });
});
