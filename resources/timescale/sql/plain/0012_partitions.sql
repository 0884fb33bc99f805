-- Plain PostgreSQL: the big tables are partitioned by time, by UTC month where rows are kept for good and by UTC day where they
-- are kept for days, so that old rows go by dropping a table. There is no default partition: a writer asks for those it needs.
CREATE TABLE md.partitioned (
    table_name  text PRIMARY KEY,
    time_column text NOT NULL,
    step        text NOT NULL CHECK (step IN ('day', 'month'))
);
INSERT INTO md.partitioned VALUES
    ('candle', 'open_time', 'month'),
    ('indicator', 'open_time', 'month'),
    ('trade', 'time', 'day'),
    ('candle_1s', 'open_time', 'day'),
    ('book', 'time', 'day'),
    ('book_second', 'time', 'day');

-- Makes the partitions of [lo, hi) that are not there yet. Attaching one leaves readers and writers of the others alone, as
-- "PARTITION OF" would not. Runs as the owner: who may only write rows has to be able to begin a new day.
CREATE FUNCTION md.ensure_partitions(wanted text, lo timestamptz, hi timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    form  md.partitioned;
    start timestamptz;
    stop  timestamptz;
    part  text;
    made  integer := 0;
BEGIN
    SELECT * INTO STRICT form FROM md.partitioned WHERE table_name = wanted;
    start := date_trunc(form.step, lo);
    WHILE start < hi LOOP
        stop := start + ('1 ' || form.step)::interval;
        part := wanted || to_char(start, CASE form.step WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
        IF to_regclass('md.' || part) IS NULL THEN
            -- Of several writers one makes it, the others wait until it is there.
            PERFORM pg_advisory_xact_lock(hashtext('md.partitioned'), hashtext(wanted));
            -- Asked of the catalog itself: who waited still remembers from above that there is none.
            IF NOT EXISTS (SELECT FROM pg_class WHERE relname = part AND relnamespace = 'md'::regnamespace) THEN
                EXECUTE format('CREATE TABLE md.%I (LIKE md.%I INCLUDING ALL)', part, wanted);
                EXECUTE format('ALTER TABLE md.%I ATTACH PARTITION md.%I FOR VALUES FROM (%L) TO (%L)',
                               wanted, part, start, stop);
                made := made + 1;
            END IF;
        END IF;
        start := stop;
    END LOOP;
    RETURN made;
END
$$;

-- Drops the partitions that end at or before a moment.
CREATE FUNCTION md.drop_partitions(wanted text, before timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    form md.partitioned;
    part text;
BEGIN
    SELECT * INTO STRICT form FROM md.partitioned WHERE table_name = wanted;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = ('md.' || wanted)::regclass
        AND to_timestamp(substring(c.relname FROM '\d+$'), CASE form.step WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END)
            + ('1 ' || form.step)::interval <= before
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE md.%I', part);
        RETURN NEXT part;
    END LOOP;
END
$$;

DO $$
DECLARE
    form md.partitioned;
    lo timestamptz;
    hi timestamptz;
BEGIN
    FOR form IN SELECT * FROM md.partitioned LOOP
        EXECUTE format('ALTER TABLE md.%I RENAME TO whole', form.table_name);
        EXECUTE format('CREATE TABLE md.%I (LIKE md.whole INCLUDING ALL) PARTITION BY RANGE (%I)',
                       form.table_name, form.time_column);
        EXECUTE format('ALTER TABLE md.%I ADD FOREIGN KEY (symbol_id) REFERENCES md.symbol', form.table_name);
        EXECUTE format('SELECT min(%I), max(%1$I) + interval ''1 microsecond'' FROM md.whole', form.time_column) INTO lo, hi;
        PERFORM md.ensure_partitions(form.table_name, lo, hi);
        EXECUTE format('INSERT INTO md.%I SELECT * FROM md.whole', form.table_name);
        DROP TABLE md.whole;
    END LOOP;
END
$$;
