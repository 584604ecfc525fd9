"""D1 as both wranglers drive it: databases, statements, files, migrations, and a Worker with one."""

from pathlib import Path
from typing import Any

import pytest

from tests.platforms import ROOT
from tests.wranglers import Wrangler, write_project

pytestmark = pytest.mark.story
APP = """
export default { async fetch(request, env) {
  const { results } = await env.DB.prepare('SELECT name FROM users ORDER BY id').all();
  return new Response(results.map(({ name }) => name).join(' '));
} };
"""
FIRST = """-- Migration number: 0001
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
CREATE TRIGGER capital AFTER INSERT ON users BEGIN
  UPDATE users SET name = upper(substr(name, 1, 1)) || substr(name, 2) WHERE id = new.id;
END;
"""
LOAD = "INSERT INTO users (name) VALUES ('ada');\nINSERT INTO users (name) VALUES ('grace;');\n"


def project_with(folder: Path, name: str, database: str, database_id: str | None) -> Path:
    """Write a project whose Worker has a database."""
    binding = {"binding": "DB", "database_name": database}
    if database_id is not None:
        binding["database_id"] = database_id
    config = {"name": name, "d1_databases": [binding]}
    return write_project(folder, config, {"index.js": APP})


def rows(wrangler: Wrangler, database: str, sql: str, project: Path) -> Any:
    """Return what a statement finds."""
    done = wrangler.do(
        *("d1", "execute", database, "--remote", "--json", "--command", sql), project=project
    )
    (answer,) = done.json()
    return answer["results"]


def id_of(wrangler: Wrangler, name: str) -> str:
    """Return a database's id, as the list tells it."""
    (found,) = [each for each in wrangler.do("d1", "list", "--json").json() if each["name"] == name]
    return str(found["uuid"])


def test_a_database_from_its_beginning_to_its_end(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: every command of `wrangler d1`, in the order of a project's life."""
    name, worker = wrangler.name("shop"), wrangler.name("shopper")
    assert name in wrangler.do("d1", "create", name, "--location", "weur").text
    again = wrangler.refuse("d1", "create", name)
    assert "already exists" in again.text
    project = project_with(tmp_path / "p", worker, name, id_of(wrangler, name))
    assert "num_tables" in wrangler.do("d1", "info", name, project=project).text

    wrangler.do("d1", "migrations", "create", name, "users", project=project)
    (migration,) = (project / "migrations").iterdir()
    assert migration.name == "0001_users.sql"
    migration.write_text(FIRST)
    listed = wrangler.do("d1", "migrations", "list", name, "--remote", project=project)
    assert "0001_users.sql" in listed.text
    wrangler.do("d1", "migrations", "apply", name, "--remote", project=project)
    applied = wrangler.do("d1", "migrations", "apply", name, "--remote", project=project)
    assert "No migrations to apply" in applied.text

    (project / "load.sql").write_text(LOAD)
    loading = ("d1", "execute", name, "--remote", "-y", "--file")
    assert "2 queries" in wrangler.do(*loading, "load.sql", project=project).text
    found = rows(wrangler, name, "SELECT id, name FROM users", project)
    assert found == [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace;"}]
    failed = wrangler.refuse(
        "d1", "execute", name, "--remote", "--command", "SELEC 1", project=project
    )
    assert 'near "SELEC": syntax error' in failed.text
    assert "7500" in failed.text
    (project / "bad.sql").write_text("INSERT INTO users (name) VALUES ('x');\nSELEC 1;\n")
    assert "syntax error" in wrangler.refuse(*loading, "bad.sql", project=project).text
    assert len(rows(wrangler, name, "SELECT id FROM users", project)) == 2

    wrangler.do("deploy", project=project)
    wrangler.platform.wait_for(worker, "Ada Grace;")

    wrangler.do("d1", "export", name, "--remote", "--output", "all.sql", "-y", project=project)
    dumped = (project / "all.sql").read_text()
    assert "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);" in dumped
    assert """INSERT INTO "users" ("id","name") VALUES(1,'Ada');""" in dumped
    arguments = ("d1", "export", name, "--remote", "--output", "data.sql", "--no-schema", "-y")
    wrangler.do(*arguments, "--table", "users", project=project)
    assert "CREATE" not in (project / "data.sql").read_text()

    travelled = wrangler.refuse("d1", "time-travel", "info", name, project=project)
    assert "Time travel is not offered" in travelled.text
    restored = ("d1", "time-travel", "restore", name, "--bookmark", "00000001-00000002")
    assert "Time travel is not offered" in wrangler.refuse(*restored, project=project).text

    wrangler.do("d1", "delete", name, "-y", project=project)
    gone = wrangler.refuse(
        *("d1", "execute", name, "--remote", "--command", "SELECT 1"), project=project
    )
    assert "7404" in gone.text


def test_a_deploy_makes_the_database_that_it_names(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a binding without an id is provisioned, and found again by the next deploy."""
    name, worker = wrangler.name("given"), wrangler.name("provisioned")
    project = project_with(tmp_path / "p", worker, name, None)
    wrangler.do("deploy", project=project)
    first = id_of(wrangler, name)
    statement = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)"
    path = f"/d1/database/{first}/query"
    for sql in (statement, "INSERT INTO users (name) VALUES ('Hedy')"):
        assert wrangler.platform.call("POST", path, json={"sql": sql}).json()["success"]
    wrangler.platform.wait_for(worker, "Hedy")
    project_with(project, worker, name, None)
    wrangler.do("deploy", project=project)
    assert id_of(wrangler, name) == first
    wrangler.platform.wait_for(worker, "Hedy")


def test_a_deploy_to_a_database_that_is_not_there_is_refused(
    wrangler: Wrangler, tmp_path: Path
) -> None:
    """Goal: by name, before anything is stored."""
    absent = "00000000-0000-4000-8000-000000000000"
    project = project_with(tmp_path / "p", wrangler.name("lost"), "lost", absent)
    refused = wrangler.refuse("deploy", project=project)
    assert f"D1 binding 'DB' references database '{absent}' which was not found" in refused.text


DRIZZLE = """
import { drizzle } from 'drizzle-orm/d1';
import { eq, sql } from 'drizzle-orm';
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core';
const users = sqliteTable('users', {
  id: integer('id').primaryKey({ autoIncrement: true }),
  name: text('name').notNull().unique(),
  born: integer('born', { mode: 'timestamp' }),
});
export default { async fetch(request, env) {
  const db = drizzle(env.DB);
  await db.run(sql`DROP TABLE IF EXISTS users`);
  await db.run(sql`CREATE TABLE users
    (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, born INTEGER)`);
  const [made] = await db.insert(users).values({ name: 'Ada', born: new Date(0) }).returning();
  const [, both] = await db.batch([
    db.insert(users).values({ name: 'Grace' }),
    db.select({ name: users.name }).from(users).orderBy(users.name),
  ]);
  await db.update(users).set({ name: 'Lovelace' }).where(eq(users.id, made.id));
  const failed = await db.insert(users).values({ name: 'Grace' }).catch((error) => error.cause.message);
  await db.delete(users).where(eq(users.name, 'Grace'));
  const left = await db.select().from(users);
  return Response.json({ born: made.born, both, failed, left: left.map(({ name }) => name) });
} };
"""


def test_drizzle_works_on_a_database(wrangler: Wrangler, tmp_path: Path) -> None:
    """Goal: a real client of the binding: inserts that return, batches, updates, what fails."""
    name, worker = wrangler.name("drizzled"), wrangler.name("drizzle")
    project = project_with(tmp_path / "p", worker, name, None)
    (project / "index.js").write_text(DRIZZLE)
    (project / "node_modules").symlink_to(ROOT / "node_modules")
    wrangler.do("deploy", project=project)
    wrangler.platform.wait_for(worker, '"left":["Lovelace"]')
    assert wrangler.platform.get(worker).json() == {
        "born": "1970-01-01T00:00:00.000Z",
        "both": [{"name": "Ada"}, {"name": "Grace"}],
        "failed": (
            "D1_ERROR: UNIQUE constraint failed: users.name: SQLITE_CONSTRAINT"
            " (extended: SQLITE_CONSTRAINT_UNIQUE)"
        ),
        "left": ["Lovelace"],
    }
