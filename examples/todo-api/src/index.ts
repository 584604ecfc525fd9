// A JSON API in TypeScript, with Hono as its router.
//
// The list lives in the memory of one process: it is gone when the cell stops, and each process
// of a busy worker has its own. That keeps the example to the API; bind a store for real data.

import { Hono } from "hono";
import { cors } from "hono/cors";
import { HTTPException } from "hono/http-exception";

import { InvalidTodo, TodoList, parseChange } from "./todos";

const todos = new TodoList();
const app = new Hono();

app.use(cors());

app.get("/", (c) => c.json({ todos: "/todos", methods: ["GET", "POST", "PATCH", "DELETE"] }));

app.get("/todos", (c) => {
  const done = c.req.query("done");
  const all = todos.all();
  return c.json(done === undefined ? all : all.filter((todo) => String(todo.done) === done));
});

app.post("/todos", async (c) => {
  const { title } = parseChange(await c.req.json());
  if (title === undefined) throw new InvalidTodo("a to-do needs a title");
  const todo = todos.add(title);
  return c.json(todo, 201, { location: `/todos/${todo.id}` });
});

app.get("/todos/:id{[0-9]+}", (c) => {
  return c.json(todos.get(Number(c.req.param("id"))) ?? missing());
});

app.patch("/todos/:id{[0-9]+}", async (c) => {
  const change = parseChange(await c.req.json());
  return c.json(todos.change(Number(c.req.param("id")), change) ?? missing());
});

app.delete("/todos/:id{[0-9]+}", (c) => {
  return todos.remove(Number(c.req.param("id"))) ? c.body(null, 204) : missing();
});

app.notFound((c) => c.json({ error: `nothing at ${c.req.path}` }, 404));

app.onError((error, c) => {
  if (error instanceof HTTPException) return c.json({ error: error.message }, error.status);
  if (error instanceof InvalidTodo) return c.json({ error: error.message }, 400);
  if (error instanceof SyntaxError) return c.json({ error: "the body is not JSON" }, 400);
  throw error;
});

function missing(): never {
  throw new HTTPException(404, { message: "no such to-do" });
}

export default app;
