CREATE SOURCE flights (
    carrier varchar, flight int, tailnum varchar, origin varchar, dest varchar,
    scheduled timestamptz, departed timestamptz, dep_delay int, arr_delay int, air_time int, distance int,
    WATERMARK FOR scheduled AS scheduled - INTERVAL '24 hours'
) WITH (topic = 'flights') FORMAT PLAIN ENCODE JSON;

CREATE SOURCE weather (
    origin varchar, hour timestamptz, temp double precision, wind_speed double precision,
    precip double precision, visib double precision
) WITH (topic = 'weather') FORMAT PLAIN ENCODE JSON;

CREATE TABLE airlines (carrier varchar PRIMARY KEY, name varchar NOT NULL);

CREATE TABLE airports (faa varchar PRIMARY KEY, name varchar NOT NULL, tzone varchar);

CREATE MATERIALIZED VIEW departures_by_hour AS
SELECT origin, window_start AS hour, count(*) AS flights, count(departed) AS departures,
       avg(dep_delay) AS mean_delay,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY dep_delay) AS p95_delay
FROM tumble(flights, scheduled, INTERVAL '1 hour')
GROUP BY origin, window_start;

CREATE MATERIALIZED VIEW delay_by_airline AS
SELECT a.name AS airline, count(*) AS flights, count(*) FILTER (WHERE f.departed IS NULL) AS cancelled,
       avg(f.dep_delay) AS mean_delay, max(f.dep_delay) AS worst_delay, count(DISTINCT f.tailnum) AS planes
FROM flights f JOIN airlines a ON f.carrier = a.carrier
GROUP BY a.name;

CREATE MATERIALIZED VIEW worst_routes AS
SELECT f.origin, f.dest, ap.name AS destination, count(f.arr_delay) AS arrivals, avg(f.arr_delay) AS mean_delay
FROM flights f LEFT JOIN airports ap ON f.dest = ap.faa
GROUP BY f.origin, f.dest, ap.name
HAVING count(f.arr_delay) >= 20
ORDER BY mean_delay DESC
LIMIT 10;

CREATE MATERIALIZED VIEW delay_by_weather AS
SELECT CASE WHEN w.wind_speed IS NULL THEN 'no report'
            WHEN w.wind_speed < 5 THEN 'below 5 mph' WHEN w.wind_speed < 10 THEN '5 to 10 mph'
            WHEN w.wind_speed < 15 THEN '10 to 15 mph' WHEN w.wind_speed < 20 THEN '15 to 20 mph'
            ELSE '20 mph and more' END AS wind,
       CASE WHEN w.visib IS NULL THEN 'no report' WHEN w.visib < 3 THEN 'below 3 miles'
            WHEN w.visib < 10 THEN '3 to 10 miles' ELSE '10 miles' END AS visibility,
       count(*) AS flights, count(*) FILTER (WHERE f.departed IS NULL) AS cancelled, avg(f.dep_delay) AS mean_delay
FROM flights f LEFT JOIN weather w ON f.origin = w.origin AND date_trunc('hour', f.scheduled) = w.hour
GROUP BY 1, 2;

CREATE MATERIALIZED VIEW rush_hours AS
SELECT origin, window_start, window_end, count(*) AS flights
FROM hop(flights, scheduled, INTERVAL '15 minutes', INTERVAL '1 hour')
GROUP BY origin, window_start, window_end
ORDER BY flights DESC
LIMIT 10;

CREATE MATERIALIZED VIEW places AS
SELECT DISTINCT place FROM (
    SELECT origin AS place FROM flights UNION ALL SELECT dest AS place FROM flights
) AS ends;
