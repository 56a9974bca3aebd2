import { expect, test } from "bun:test";
import { newPlacedId, partitionOfPlacedId, timeOfId } from "../lib/id.ts";

test("a placed id tells its partition and its time, and nothing else passes for one", () => {
  const id = newPlacedId(1_753_000_000_000, 15);
  expect(id).toMatch(/^[0-9A-Z]{20}-15$/);
  expect(partitionOfPlacedId(id, 16)).toBe(15);
  expect(timeOfId(id)).toBe(1_753_000_000_000);
  expect(partitionOfPlacedId(id, 15)).toBeUndefined();
  for (const wrong of [
    "",
    "15",
    id.slice(0, -3),
    `${id} `,
    id.replace("-15", "-015"),
    id.replace("-15", "--1"),
    `x${id}`,
  ]) {
    expect(partitionOfPlacedId(wrong, 1024)).toBeUndefined();
  }
});
