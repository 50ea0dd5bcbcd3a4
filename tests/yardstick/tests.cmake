find_package(Python3 REQUIRED COMPONENTS Interpreter)
# Training to a figure is for optimised builds; under sanitisers only the small ones.
set(cases a9a dna interactions)
if(NOT EBB_SANITIZE)
  list(APPEND cases fashion)
endif()
foreach(case ${cases})
  add_test(NAME yardstick.accuracy.${case} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/accuracy.py ${case})
  set_tests_properties(yardstick.accuracy.${case} PROPERTIES LABELS yardstick TIMEOUT 900 SKIP_RETURN_CODE 77 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
endforeach()

# Published savings of carbon-aware scheduling; by hand in full: build/release/tests/yardstick_carbon ../shared/data/carbon
add_executable(yardstick_carbon yardstick/carbon.c)
target_link_libraries(yardstick_carbon PRIVATE ebb_plan ebb_carbon)
add_test(NAME yardstick.carbon COMMAND yardstick_carbon --short ${PROJECT_SOURCE_DIR}/../shared/data/carbon)
set_tests_properties(yardstick.carbon PROPERTIES LABELS yardstick TIMEOUT 600 SKIP_RETURN_CODE 77)
add_executable(yardstick_online yardstick/online.c)
target_link_libraries(yardstick_online PRIVATE ebb_plan ebb_carbon)
if(NOT EBB_SANITIZE)
  add_test(NAME yardstick.online COMMAND yardstick_online ${PROJECT_SOURCE_DIR}/../shared/data/carbon)
  set_tests_properties(yardstick.online PROPERTIES LABELS yardstick TIMEOUT 600 SKIP_RETURN_CODE 77)
endif()
