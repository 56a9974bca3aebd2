import { expect, test } from "bun:test";
import { defineScript } from "../../lib/redis/index.ts";
import { openTestStore } from "../support/redis.ts";

const LUA = `#!lua
local counter = KEYS[1]
local step = tonumber(ARGV[1])
return redis.call('INCRBY', counter, step)
`;

test("a script is called by names and decoded", async () => {
  await using store = await openTestStore("script");
  const count = defineScript({ name: "tCount", lua: LUA, keys: ["counter"], args: ["step"], decode: Number });
  expect(await count(store.redis.commands, { counter: `${store.prefix}:c`, step: 2 })).toBe(2);
});

test("a script survives SCRIPT FLUSH", async () => {
  await using store = await openTestStore("script");
  const count = defineScript({ name: "tFlushed", lua: LUA, keys: ["counter"], args: ["step"], decode: Number });
  const counter = `${store.prefix}:c`;
  await count(store.redis.commands, { counter, step: 1 });
  await store.redis.commands.script("FLUSH");
  expect(await count(store.redis.commands, { counter, step: 1 })).toBe(2);
});

test("names that disagree with the Lua refuse to start", () => {
  const define = (keys: string[], args: string[]) => () =>
    defineScript({ name: "tBad", lua: LUA, keys, args, decode: Number });
  expect(define(["stream"], ["step"])).toThrow('expected "local stream = KEYS[1]"');
  expect(define(["counter"], [])).toThrow("ARGV[1] is used and not declared");
});

test("two scripts may be used for the first time in one tick", async () => {
  const count = defineScript({ name: "tFirst", lua: LUA, keys: ["counter"], args: ["step"], decode: Number });
  const countToo = defineScript({ name: "tSecond", lua: LUA, keys: ["counter"], args: ["step"], decode: Number });
  await using store = await openTestStore("script");
  const counter = `${store.prefix}:c`;
  const both = [
    count(store.redis.commands, { counter, step: 1 }),
    countToo(store.redis.commands, { counter, step: 1 }),
  ];
  expect(await Promise.all(both)).toEqual([1, 2]);
});
